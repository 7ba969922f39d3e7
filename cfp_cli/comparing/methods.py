"""What is compared: each method is a criterion, a cluster rule and an allocation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cfp_cli.foundation.errors import UsageError
from cfp_cli.pruning.options import Allocation
from cfp_cli.scoring.criteria import DEFAULT_RICHNESS, Richness


@dataclass(frozen=True)
class Method:
    """A way to choose channels.

    Attributes:
        name: as the user writes it.
        criterion: what ranks channels: `scores` (richness of the feature maps) or one of `criteria.CRITERIA`.
        richness: of the feature maps, as `score` takes it.
        clusters: cluster rule; `1` ranks across the whole layer.
        allocation: how the ratio is spread over the layers, as in `PruneOptions`.
        published: keep in each cluster what the published results kept.
        round_to: kept counts are multiples of this number.
        rounds: number of rounds, with a recovery between two of them. The recoveries use epochs of the fine-tuning.
        scratch: train the pruned shape from its initialisation, without the kept weights.
        source: where the method comes from.
    """

    name: str
    criterion: str = "scores"
    richness: Richness = DEFAULT_RICHNESS
    clusters: str = "1"
    allocation: Allocation | None = "uniform"
    published: bool = False
    round_to: int = 1
    rounds: int = 1
    scratch: bool = False
    source: str = ""


_CFP = Method(
    "cfp", clusters="adaptive:2", allocation=None, source="Wang et al. 2023, with own richness and allocation"
)
_RANK = replace(_CFP, name="cfp-rank", richness="rank", source="as cfp, with the paper's richness")
_ALL = (
    _CFP,
    replace(_CFP, name="cfp-measured", allocation="measured", source="as cfp, with the allocation of smallest loss"),
    replace(_CFP, name="cfp-redundancy", allocation="redundancy", source="as cfp, with the allocation by redundancy"),
    replace(_CFP, name="cfp-uniform", allocation="uniform", source="as cfp, with one rate for all layers"),
    replace(_CFP, name="cfp-no-clusters", clusters="1", source="as cfp, with one cluster a layer"),
    replace(_CFP, name="cfp-round-8", round_to=8, source="as cfp, with kept counts in multiples of eight"),
    replace(_CFP, name="cfp-rounds", rounds=3, source="as cfp, in three rounds with recoveries between them"),
    _RANK,
    replace(_RANK, name="cfp-rank-uniform", allocation="uniform", source="Wang et al. 2023, one rate for all layers"),
    replace(_RANK, name="cfp-rank-two", clusters="2", source="as cfp-rank, with two clusters a layer"),
    replace(_RANK, name="cfp-rank-round-8", round_to=8, source="as cfp-rank, with kept counts in multiples of eight"),
    replace(_CFP, name="cfp-effective-rank", richness="effective-rank", source="as cfp, with another richness"),
    replace(_CFP, name="cfp-entropy", richness="entropy", source="as cfp, with another richness"),
    Method(
        "cfp-published",
        richness="rank",
        clusters="2",
        published=True,
        source="Wang et al. 2023, as the published scripts keep",
    ),
    Method("hrank", richness="rank", source="Lin et al., HRank, CVPR 2020"),
    Method(
        "hrank-redundancy",
        richness="rank",
        allocation="redundancy",
        source="as hrank, with the allocation by redundancy",
    ),
    Method("l1-redundancy", "l1", allocation="redundancy", source="as l1, with the allocation by redundancy"),
    Method(
        "random-redundancy", "random", allocation="redundancy", source="as random, with the allocation by redundancy"
    ),
    Method("similarity", "random", clusters="adaptive:2", source="clusters of cfp, a random channel of each"),
    Method("random", "random"),
    Method("l1", "l1", source="Li et al., Pruning filters for efficient ConvNets, ICLR 2017"),
    Method("l2", "l2", source="He et al., Soft filter pruning, IJCAI 2018"),
    Method("fpgm", "fpgm", source="He et al., Filter pruning via geometric median, CVPR 2019"),
    Method("taylor", "taylor", source="Molchanov et al., Importance estimation for neural network pruning, CVPR 2019"),
    Method("group-norm", "group-norm", source="Fang et al., DepGraph, CVPR 2023"),
    replace(_CFP, name="scratch", scratch=True, source="Liu et al., Rethinking, ICLR 2019"),
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
