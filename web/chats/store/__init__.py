"""The chat store, in SQLite or PostgreSQL."""
