"""What every stage depends on: errors, records, the place of its work. Tiny and steady."""
