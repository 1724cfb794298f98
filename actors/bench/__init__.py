"""Measuring: what `commitcast bench` runs, in the host's process and in processes of its own beside it."""
