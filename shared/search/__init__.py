"""What indexers and gateways agree on about the search index."""
