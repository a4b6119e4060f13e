"""What every stage depends on, tiny and steady: errors, records, lines, content, work; and what fewer need: given, files, importing."""
