"""What is kept: records, the errors of keeping them, and the SQLite store.

The ground floor: it imports nothing of the floors above.
"""
