"""The host's half of a store in the server process, and the protocol between the two."""
