"""The worker: claims jobs and computes vectors."""
