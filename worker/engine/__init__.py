"""Engines: they turn clips and texts into vectors."""
