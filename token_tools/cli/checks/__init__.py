"""What `doctor` looks at. Each module is about one part of what has to be right."""
