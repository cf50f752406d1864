"""The embedded cluster: a small Qumulo Core, true to the published one, for trials, tests and demonstrations."""
