"""How processes are started, watched, kept private, and ended."""
