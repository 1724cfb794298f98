"""The server: sessions, and the sockets, HTTP, access control and limits around them."""
