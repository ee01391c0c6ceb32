"""What commands say on a terminal: rows, tables and progress."""
