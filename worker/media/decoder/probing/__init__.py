"""What a probe finds out about a file."""
