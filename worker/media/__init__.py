"""Demuxing, frame selection, decoding and resizing."""
