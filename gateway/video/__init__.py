"""What a video request needs between intake and results."""
