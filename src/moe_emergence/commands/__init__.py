"""What each command does: thin, every one a `run(arguments)`."""
