"""Which runs there are, and in which declared fields they differ."""
