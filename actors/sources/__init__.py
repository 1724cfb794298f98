"""Sources of agents: iterables, async iterables, and CLI processes with their parsers."""
