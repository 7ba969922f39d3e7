"""Measurements of a network: metrics on images, and latency."""
