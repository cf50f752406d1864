"""Results as the words and fields that a model or a person reads."""
