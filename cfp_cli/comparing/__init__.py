"""Pruning criteria side by side: same network, same compression, same fine-tuning."""
