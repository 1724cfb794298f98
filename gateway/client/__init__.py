"""The client's half: the protocol without I/O, reconnecting, and two faces, asyncio and blocking."""
