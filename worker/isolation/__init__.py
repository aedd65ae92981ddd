"""The sandbox of child processes that read media or talk to cameras."""
