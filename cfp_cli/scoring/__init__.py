"""From images to scores: taps, accumulators, and the score file."""
