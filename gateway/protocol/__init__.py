"""The wire: frames and errors as types. Imports nothing of the other rooms."""
