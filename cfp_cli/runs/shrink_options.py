"""The options of `cfp shrink`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cfp_cli.foundation.errors import UsageError
from cfp_cli.measuring.loss_rule import LossRule
from cfp_cli.measuring.runtimes import RUNTIMES, Runtime
from cfp_cli.pruning.frontier import Budget, Cost
from cfp_cli.pruning.options import TARGETS, Allocation, PruneOptions, Target
from cfp_cli.training.options import TrainOptions


def short_training(**changes: Any) -> TrainOptions:
    """The options of a fine-tuning of `cfp shrink`: the preset `short`, but the distillation loss chooses the epoch.

    The accuracy on a few hundred images hardly distinguishes the epochs of a short training.
    """
    return TrainOptions.preset("short", select="loss", val_views=3, **changes)


@dataclass(frozen=True)
class ShrinkOptions:
    """The options of `cfp shrink`.

    Attributes:
        rule: when a network passes.
        target: what is made small: `params`, `macs`, `latency` or `bytes`.
        budgets: what the result may cost at most.
        allocation, candidates, keep, ignore: as in `PruneOptions`.
        round_to: kept counts are multiples of this number; `auto` chooses it, see `cfp_cli.runs.shrink_rounding`.
        runtime: the runtime of latency and bytes; None is onnxruntime, or torch where that is not installed.
        threads: CPU threads of the latency; None takes the number that torch uses.
        batch: images of a batch of the latency.
        finetune: fine-tune candidates near the border; otherwise candidates are refitted only.
        training: options of each fine-tuning.
        time_limit: seconds after which no further candidate is begun; None is no limit.
        batch_size: images of a batch, except in training and for the latency.
        seed: seed of all random choices.
    """

    rule: LossRule = field(default_factory=LossRule)
    target: Target = "params"
    budgets: tuple[Budget, ...] = ()
    allocation: Allocation | None = None
    candidates: int = 4
    round_to: int | Literal["auto"] = "auto"
    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    runtime: Runtime | None = None
    threads: int | None = None
    batch: int = 1
    finetune: bool = True
    training: TrainOptions = field(default_factory=lambda: short_training())
    time_limit: float | None = None
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value is unknown or out of range, or two contradict each other.
        """
        if self.target not in TARGETS:
            raise UsageError(f"target '{self.target}' is unknown; pass one of {', '.join(TARGETS)}")
        if self.runtime is not None and self.runtime not in RUNTIMES:
            raise UsageError(f"runtime '{self.runtime}' is unknown; pass one of {', '.join(RUNTIMES)}")
        if self.time_limit is not None and self.time_limit <= 0:
            raise UsageError(f"--time-limit is {self.time_limit:g} seconds; pass a positive time, such as 15m")
        if self.batch < 1 or (self.threads is not None and self.threads < 1):
            raise UsageError(f"a latency of {self.batch} images and {self.threads} threads is none; pass 1 or more")
        if self.round_to != "auto" and (not isinstance(self.round_to, int) or self.round_to < 1):
            raise UsageError(f"round_to is {self.round_to!r}; pass a number from 1, or auto")
        self.prune(2.0, 1)

    @property
    def costs(self) -> frozenset[Cost]:
        """The costs that the target and the budgets count."""
        return frozenset({self.target, *(each.cost for each in self.budgets)})

    def prune(self, compression: float, round_to: int) -> PruneOptions:
        """The options of the prune to a compression.

        Raises:
            UsageError: two options contradict each other.
        """
        return PruneOptions(
            ratio=1 - 1 / compression,
            target=self.target,
            allocation=self.allocation,
            candidates=self.candidates,
            round_to=round_to,
            keep=self.keep,
            ignore=self.ignore,
        )
