"""What a run does, as a checked TOML file; class names of published data sets."""
