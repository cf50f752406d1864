"""The journal, private files and the delivery of secrets."""
