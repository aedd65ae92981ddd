"""Demuxes, selects frames, decodes and resizes."""
