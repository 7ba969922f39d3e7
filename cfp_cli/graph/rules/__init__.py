"""What every operator does to channels, one rule an operator; an operator without a rule freezes what it reads."""

from __future__ import annotations

import torch

from cfp_cli.graph.rules import contraction, movement, norms, pointwise, reduction, spatial
from cfp_cli.graph.rules.site import RULES, Result, Site

__all__ = ["apply", "contraction", "movement", "norms", "pointwise", "reduction", "spatial"]


def apply(site: Site) -> Result:
    """Follow one operator call by the rule for its operator; element-wise operators are known by PyTorch's own tag."""
    found = RULES.get(site.operator)
    if found is None and torch.Tag.pointwise in getattr(site.node.target, "tags", ()):
        found = pointwise.pointwise
    return found(site) if found is not None else site.refuse()
