"""Sockets: listening, accepting within limits, WebSocket connections."""
