"""Names, values, and where they are written."""
