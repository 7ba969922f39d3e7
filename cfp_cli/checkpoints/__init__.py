"""Checkpoint files: read them, build their networks and write them."""
