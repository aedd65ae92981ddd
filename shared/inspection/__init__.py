"""What the command line and the gateway show of the queues in Redis."""
