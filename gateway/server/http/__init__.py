"""HTTP: requests and responses, routes, server-sent events, and the ASGI app."""
