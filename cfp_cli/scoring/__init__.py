"""From images to scores: taps, accumulators, clusters, and the score file."""
