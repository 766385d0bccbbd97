"""What makes runs go: graphs, attempts, whose turn it is, and taking over from the dead."""
