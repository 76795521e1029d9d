"""A run: the loop and what it records."""
