"""Guarded online stores beyond SQLite, and what all of them share."""
