"""Triggers as a gateway sees them: kept in the index, followed by clients, told to webhooks."""
