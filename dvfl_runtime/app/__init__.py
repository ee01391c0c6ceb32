"""The command dvfl-recognize: its options, its sources, and everything that it writes."""
