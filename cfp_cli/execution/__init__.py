"""Device, threads, processes, precision and evaluation mode."""
