"""The REST API of a Qumulo cluster."""
