"""Forgetting runs that have been over for long enough, and checkpoints of theirs, beside live load."""
