"""The server process: a store and its gateways, shared by all hosts of one file."""
