"""Subscriptions, cursors, replay and live, and the encoding of what is sent. Pure: no sockets, no threads, no clock."""
