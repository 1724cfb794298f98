"""Who hears of it: the wire protocol, the hub, the WebSocket server and the client.

The middle floor: it imports records and errors of persistence, and nothing of actors.
"""
