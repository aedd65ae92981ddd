"""Connections to Redis or Valkey."""
