"""The alternatives, each as a program of its own."""
