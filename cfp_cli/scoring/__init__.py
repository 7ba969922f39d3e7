"""Scores: one forward pass over images, clusters of similar channels, and the score file."""
