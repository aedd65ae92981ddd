"""Results to Redis, messages to the buses."""
