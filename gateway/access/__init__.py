"""Who may connect, ask and change things: limits of connections, addresses, origins, keys."""
