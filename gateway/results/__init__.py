"""Results going out: following a request, JSON answers, server-sent events, vectors."""
