"""The pages at which people pick up new bearer tokens: who they are, what they see, and what they get."""
