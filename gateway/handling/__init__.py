"""What several endpoints do with a request: bodies, media at a URL, live sessions, events, progress."""
