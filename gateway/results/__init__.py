"""Results going out: following a request, JSON answers, the form of events, vectors."""
