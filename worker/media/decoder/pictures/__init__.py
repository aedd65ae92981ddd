"""Still pictures and frames: reading, turning and scaling them, and making thumbnails."""
