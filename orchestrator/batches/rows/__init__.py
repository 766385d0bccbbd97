"""The rows of batches and of their documents."""
