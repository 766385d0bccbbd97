"""The HTTP API: JSON in camelCase over an `Orchestrator`."""
