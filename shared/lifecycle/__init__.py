"""Starting, watching, isolating and ending processes."""
