"""Text that a user types, as a run's model routes it: a page on this machine alone."""
