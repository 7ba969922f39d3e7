"""What is compared: each method is a criterion, a cluster rule and an allocation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cfp_cli.errors import UsageError


@dataclass(frozen=True)
class Method:
    """A way to choose channels.

    Attributes:
        name: as the user writes it.
        criterion: what ranks channels: `scores` (richness of the feature maps) or one of `criteria.CRITERIA`.
        clusters: cluster rule; `1` ranks across the whole layer.
        allocation: how the ratio is spread over the layers.
        scratch: forget the weights that were kept, and train the pruned shape from its initialisation.
        source: where the method comes from.
    """

    name: str
    criterion: str
    clusters: str = "1"
    allocation: str = "uniform"
    scratch: bool = False
    source: str = ""


_ALL = (
    Method("cfp", "scores", "adaptive:2", "redundancy", source="Wang et al. 2023, with this project's allocation"),
    Method("cfp-uniform", "scores", "adaptive:2", source="Wang et al. 2023, one rate for all layers"),
    Method("cfp-two", "scores", "2", "redundancy", source="as cfp, with two clusters a layer"),
    Method("hrank", "scores", source="Lin et al., HRank, CVPR 2020"),
    Method("hrank-redundancy", "scores", "1", "redundancy", source="as cfp, without clusters"),
    Method("similarity", "random", "adaptive:2", source="clusters of cfp, a random channel of each"),
    Method("random", "random"),
    Method("l1", "l1", source="Li et al., Pruning filters for efficient ConvNets, ICLR 2017"),
    Method("l2", "l2", source="He et al., Soft filter pruning, IJCAI 2018"),
    Method("fpgm", "fpgm", source="He et al., Filter pruning via geometric median, CVPR 2019"),
    Method("taylor", "taylor", source="Molchanov et al., Importance estimation for neural network pruning, CVPR 2019"),
    Method("scratch", "scores", "adaptive:2", "redundancy", scratch=True, source="Liu et al., Rethinking, ICLR 2019"),
)
METHODS = {method.name: method for method in _ALL}


def chosen(names: Sequence[str]) -> tuple[Method, ...]:
    """The methods of these names.

    Raises:
        UsageError: there is no such method.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise UsageError(f"no method '{unknown[0]}'; one of {', '.join(METHODS)}")
    return tuple(METHODS[name] for name in names)
