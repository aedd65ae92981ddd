"""The code inside a decoder process."""
