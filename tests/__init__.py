"""The tests, importable as a package so that their fakes are shared."""
