"""Video requests: planning of chunks, profiles."""
