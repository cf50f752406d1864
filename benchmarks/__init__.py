"""What this project costs beside what one would take instead, measured in one run: `python -m benchmarks`."""
