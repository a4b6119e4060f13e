"""The command line: the words that people type, a module a group, and the warm process that runs some of them."""
