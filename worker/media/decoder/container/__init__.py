"""A media file: its bytes, its container, its clock and its packets."""
