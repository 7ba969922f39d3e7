"""Pruning criteria side by side: same network, same compression, same fine-tuning."""

from cfp_cli.comparing.compare import Comparison, compare
from cfp_cli.comparing.methods import METHODS, Method

__all__ = ["METHODS", "Comparison", "Method", "compare"]
