"""Extraction over many documents at once."""
