"""What runs inside a decoder process."""
