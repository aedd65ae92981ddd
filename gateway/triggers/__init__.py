"""Triggers in a gateway: kept in the index, followed by clients, sent to webhooks."""
