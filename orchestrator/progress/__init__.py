"""What a watcher sees of a run while it goes on."""
