"""Looking at what a service is doing: what the command line and the gateway show of its queues."""
