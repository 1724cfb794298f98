"""Sockets: listening, accepting within bounds, WebSocket connections, TLS."""
