"""A generated world, and what it leaves in documents, conversations, preferences and suites."""
