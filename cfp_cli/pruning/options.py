"""The options of a prune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cfp_cli.foundation.errors import UsageError

Target = Literal["params", "macs", "latency", "bytes"]
Rule = Literal["redundancy", "uniform"]
Allocation = Rule | Literal["measured"]
TARGETS: tuple[Target, ...] = get_args(Target)
RULES: tuple[Rule, ...] = get_args(Rule)
ALLOCATIONS: tuple[Allocation, ...] = (*RULES, "measured")


@dataclass(frozen=True)
class PruneOptions:
    """The options of a prune.

    Attributes:
        ratio: fraction of the target to remove, in [0, 1); None with `rates`.
        rates: a rate for each set, see `parse_rates`; None with `ratio`.
        target: what `ratio` counts: `params`, `macs` (multiply-adds), `latency` (measured on this machine) or `bytes`
            (of the weights).
        allocation: how a ratio is spread over the sets: `redundancy`, `uniform`, or `measured`, which searches for
            the counts of the smallest measured loss. None leaves it to `planning.default_allocation`.
        candidates: number of networks that the allocation `measured` tries.
        clusters: cluster rule, `K` or `adaptive:S`.
        min_channels: smallest number of channels of a set.
        round_to: kept counts are multiples of this number.
        keep: shell patterns; sets with a matching producer keep all channels.
        ignore: shell patterns; matching modules keep all outputs and all inputs.
        published: keep in each cluster what the published results kept (with `rates` only).
    """

    ratio: float | None = None
    rates: str | None = None
    target: Target = "params"
    allocation: Allocation | None = None
    clusters: str = "adaptive:2"
    min_channels: int = 1
    round_to: int = 1
    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    published: bool = False
    candidates: int = 4

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value is out of range or two contradict each other.
        """
        if (self.ratio is None) == (self.rates is None):
            raise UsageError("pass either a ratio or rates, such as --ratio 0.95")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise UsageError(f"ratio {self.ratio:g} is not in [0, 1); 0.95 removes 95 %")
        if self.published and self.rates is None:
            raise UsageError("--compat reference needs rates; pass for example --rates '[0.5]*13'")
        if self.allocation == "measured" and self.ratio is None:
            raise UsageError("--allocation measured needs --ratio")
        if self.candidates < 1:
            raise UsageError(f"{self.candidates} candidates are too few; pass 1 or more")
        for name, value, choices in (
            ("target", self.target, TARGETS),
            ("allocation", self.allocation or "measured", ALLOCATIONS),
        ):
            if value not in choices:
                raise UsageError(f"{name} '{value}' is unknown; pass one of {', '.join(choices)}")
