"""Where messages come from: Kafka or a Redis stream."""
