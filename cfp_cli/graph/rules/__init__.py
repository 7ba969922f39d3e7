"""What every operator does to channels, one rule an operator; an operator without a rule freezes what it reads."""

from __future__ import annotations

from cfp_cli.graph.rules import contraction, movement, norms, pointwise, reduction, spatial
from cfp_cli.graph.rules.site import RULES, Result, Site
from cfp_cli.graph.trace import is_pointwise

__all__ = ["apply", "contraction", "movement", "norms", "pointwise", "reduction", "spatial"]


# What is asked of a tensor is a number, not its channels; code that goes on to fix their number fails the probe.
SIZES = frozenset(["sym_size", "sym_numel", "sym_stride"])


def apply(site: Site) -> Result:
    """Follow one operator call by the rule for its operator; element-wise operators are known by PyTorch's own tag."""
    if site.operator in SIZES:
        return []
    found = RULES.get(site.operator)
    if found is None and is_pointwise(site.node):
        found = pointwise.pointwise
    return found(site) if found is not None else site.refuse()
