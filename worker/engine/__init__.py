"""What turns clips and texts into vectors."""
