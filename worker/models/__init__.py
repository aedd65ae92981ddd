"""Model directories: what a worker loads and how they are made."""
