"""Text to balanced blocks of tokens."""
