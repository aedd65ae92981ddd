"""`rt-embed`: one module per group of sub-commands."""
