"""The process: its start and end, kills, leaks, the vendor's SDK, stateful and fuzz tests."""
