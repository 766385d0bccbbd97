"""Runs that move between PostgreSQL and the memory of a server: the Python under rollback and rollforward."""
