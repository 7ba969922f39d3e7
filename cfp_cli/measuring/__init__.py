"""What is measured of a network: metrics, latency, size."""
