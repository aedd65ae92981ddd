"""Video requests between intake and results: planning, live streams, progress, profiles."""
