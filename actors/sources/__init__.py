"""What feeds an agent: iterables, async iterables, and CLI processes with their parsers."""
