"""The programs that start this server for an assistant, and their files."""
