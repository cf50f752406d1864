"""The embedded cluster: a small faithful Qumulo Core for trying, testing and demonstrating."""
