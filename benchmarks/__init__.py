"""What this project costs compared to its alternatives, measured in one run: `python -m benchmarks`."""
