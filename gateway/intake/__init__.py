"""Bytes coming in: uploads, downloads, and the rules for addresses."""
