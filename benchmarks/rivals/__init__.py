"""The alternatives to this project, each a program of its own."""
