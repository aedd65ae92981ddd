"""What indexers and gateways share about the search index."""
