"""Sessions and what carries them: sockets, HTTP, rights and limits."""
