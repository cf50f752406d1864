"""The words that a model or a person reads."""
