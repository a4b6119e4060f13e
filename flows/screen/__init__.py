"""What people see in a terminal: tables, and streams that bear any text."""
