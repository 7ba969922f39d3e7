"""The Python call for pruning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan, with_plan
from cfp_cli.pruning.pruner import Pruner
from cfp_cli.pruning.refit import FULL, Refit
from cfp_cli.scoring.scores import Scores


def prune(
    model: nn.Module,
    scores: Scores,
    ratio: float | None = None,
    *,
    loader: Iterable[tuple[Tensor, Tensor]] | None = None,
    graph: ChannelGraph | None = None,
    refit: Refit = FULL,
    progress: Progress = SILENT,
    **options: Any,
) -> tuple[nn.Module, Plan]:
    """Prune a network to a target.

    Args:
        model: the network that `scores` were made with; it is not changed.
        scores: scores of its channels.
        ratio: fraction of parameters (or of `target`) to remove.
        loader: batches of training images (float32 [N, C, H, W]) and labels, on which the rebuild is proven and
            refitted. Without it the proof uses seeded noise and the network keeps its sliced tensors.
        graph: the network's channel graph, if it is known already.
        refit: what is done after the rebuild.
        progress: reports progress.
        options: fields of `PruneOptions`.

    Returns:
        The pruned network, in eval mode, and its plan. If `model` has a spec, the pruned network has one with the plan,
        so that it can be saved and loaded.

    Raises:
        UsageError: an option is out of range.
        TargetError: the target cannot be met.
        ProofError: the rebuilt network differs from the channel-zeroed original.
    """
    pruner = Pruner(loader, refit, progress=progress)
    pruned, plan = pruner.prune(model, scores, PruneOptions(ratio=ratio, **options), graph=graph)
    spec = getattr(model, "spec", None)
    if isinstance(spec, ModelSpec):
        facts = {"compression": plan.compression, "achieved": plan.achieved}
        describe(pruned, with_plan(spec.followed_by("prune", **facts), plan))
    return pruned, plan
