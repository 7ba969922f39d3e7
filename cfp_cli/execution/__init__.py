"""Where and how the work runs: device, threads, processes, precision, evaluation mode."""
