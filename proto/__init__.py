"""The message schema and its generated code."""
