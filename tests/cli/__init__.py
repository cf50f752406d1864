"""The command line, as a process and in memory."""
