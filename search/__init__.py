"""The search index: embedding messages in, rows of PostgreSQL with pgvector out."""
