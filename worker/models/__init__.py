"""Model directories: what a worker loads, and how it is made."""
