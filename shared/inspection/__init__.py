"""The queues in Redis, as the command line and the gateway show them."""
