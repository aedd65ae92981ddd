"""What the gateway and the workers agree on."""
