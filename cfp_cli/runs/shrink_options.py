"""The options of `cfp shrink`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cfp_cli.foundation.errors import UsageError
from cfp_cli.measuring.loss_rule import LossRule
from cfp_cli.pruning.frontier import Budget
from cfp_cli.pruning.options import PruneOptions, Rule
from cfp_cli.training.options import TrainOptions


@dataclass(frozen=True)
class ShrinkOptions:
    """The options of `cfp shrink`.

    Attributes:
        rule: when a network passes.
        target: what is made small: `params` or `macs`.
        budgets: what the result may cost at most.
        allocation, round_to, keep, ignore: as in `PruneOptions`.
        finetune: fine-tune candidates near the border; otherwise candidates are refitted only.
        training: options of each fine-tuning.
        time_limit: seconds after which no further candidate is begun; None is no limit.
        batch_size: images of a batch, except in training.
        seed: seed of all random choices.
    """

    rule: LossRule = field(default_factory=LossRule)
    target: Literal["params", "macs"] = "params"
    budgets: tuple[Budget, ...] = ()
    allocation: Rule = "redundancy"
    round_to: int = 1
    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    finetune: bool = True
    training: TrainOptions = field(default_factory=lambda: TrainOptions.preset("short"))
    time_limit: float | None = None
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: the target is not one that can be searched, or the time limit is not positive.
        """
        if self.target not in ("params", "macs"):
            raise UsageError(f"target '{self.target}' is not supported yet; use --target params or macs")
        if self.time_limit is not None and self.time_limit <= 0:
            raise UsageError(f"--time-limit is {self.time_limit:g} seconds; pass a positive time, such as 15m")

    def prune(self, compression: float) -> PruneOptions:
        """The options of the prune to a compression."""
        return PruneOptions(
            ratio=1 - 1 / compression,
            target=self.target,
            allocation=self.allocation,
            round_to=self.round_to,
            keep=self.keep,
            ignore=self.ignore,
        )
