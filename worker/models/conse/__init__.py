"""The demonstration model: an image classifier and a sentence encoder joined by ConSE."""
