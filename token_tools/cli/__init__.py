"""The command line: which command runs, with which settings, and how the process starts."""
