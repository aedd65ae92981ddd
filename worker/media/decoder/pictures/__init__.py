"""Reads, rotates and scales still pictures and frames, and makes thumbnails."""
