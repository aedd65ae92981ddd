"""What keeps child processes that read media, or talk to cameras, from hurting others."""
