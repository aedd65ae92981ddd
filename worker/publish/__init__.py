"""Stores results in Redis and sends messages to the buses."""
