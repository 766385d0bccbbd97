"""What threads are made of, read from and written to any LangGraph saver."""
