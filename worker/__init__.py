"""Jobs in, vectors out."""
