"""How commands present results: rows and tables, segments as files, and progress on a terminal."""
