"""What does the cluster say? The REST API of a Qumulo cluster."""
