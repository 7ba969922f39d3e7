"""The files and the record of a prune."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.pruning.plan import Plan, with_plan
from cfp_cli.runs.records import Inputs, PruneMetrics, PruneRecord, output_files
from cfp_cli.runs.scored_network import ScoredNetwork


def save_pruned(scored: ScoredNetwork, pruned: nn.Module, plan: Plan, path: Path, plan_path: Path) -> None:
    """Write a pruned network to `path` and its plan to `plan_path`.

    Raises:
        StorageError: a file cannot be written.
    """
    facts = {"from": scored.model.record().sha256, "compression": plan.compression, "achieved": plan.achieved}
    save(path, pruned, with_plan(spec_of(scored.network).followed_by("prune", **facts), plan))
    plan.save(plan_path)


def prune_record(
    scored: ScoredNetwork,
    plan: Plan,
    outputs: Mapping[str, Path],
    arguments: Mapping[str, Any],
    seed: int,
    validation: Mapping[str, Metrics],
    seconds: float,
) -> PruneRecord:
    """Return the record of a prune.

    Args:
        scored: the network that was pruned.
        plan: its plan.
        outputs: the files that `save_pruned` wrote: `pruned` and `plan`.
        arguments: options of the prune, as plain data.
        seed: seed of the sample of training images.
        validation: metrics on the validation split by stage.
        seconds: how long the prune took.
    """
    return PruneRecord(
        arguments=arguments,
        seed=seed,
        inputs=Inputs(model=scored.model.record(), data=scored.data.record(scored.dataset)),
        outputs=output_files(**outputs),
        seconds=seconds,
        metrics=PruneMetrics(
            plan.params_before,
            plan.params_after,
            plan.compression,
            plan.max_abs_logit_error,
            {stage: metrics.accuracy for stage, metrics in validation.items()},
        ),
    )
