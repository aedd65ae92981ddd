"""The message bus: Kafka, routes of messages, error events."""
