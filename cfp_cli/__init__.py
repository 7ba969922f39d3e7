"""Collaborative filter pruning: shrink defect-inspection CNNs 40 to 100 times without losing the rare classes.

The public functions and types, each imported when it is first used: the command line's `--help` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfp_cli.checkpoints.checkpoint import ModelSpec, describe, load, save
    from cfp_cli.comparing.grid import Comparison, compare
    from cfp_cli.data.dataset import Dataset, open_dataset
    from cfp_cli.exporting.export import export
    from cfp_cli.graph import ChannelGraph, channel_sets
    from cfp_cli.measuring.metrics import Metrics, evaluate
    from cfp_cli.pruning.plan import Plan
    from cfp_cli.pruning.prune import prune
    from cfp_cli.pruning.restore import Restoration
    from cfp_cli.scoring.score import score
    from cfp_cli.scoring.scores import Scores
    from cfp_cli.training.finetune import finetune
    from cfp_cli.training.history import History
    from cfp_cli.training.options import TrainOptions
    from cfp_cli.training.teacher import train

_HOMES = {
    "ChannelGraph": "graph",
    "Comparison": "comparing.grid",
    "Dataset": "data.dataset",
    "History": "training.history",
    "Metrics": "measuring.metrics",
    "ModelSpec": "checkpoints.checkpoint",
    "Plan": "pruning.plan",
    "Restoration": "pruning.restore",
    "Scores": "scoring.scores",
    "TrainOptions": "training.options",
    "channel_sets": "graph",
    "compare": "comparing.grid",
    "describe": "checkpoints.checkpoint",
    "evaluate": "measuring.metrics",
    "export": "exporting.export",
    "finetune": "training.finetune",
    "load": "checkpoints.checkpoint",
    "open_dataset": "data.dataset",
    "prune": "pruning.prune",
    "save": "checkpoints.checkpoint",
    "score": "scoring.score",
    "train": "training.teacher",
}

__all__ = [
    "ChannelGraph",
    "Comparison",
    "Dataset",
    "History",
    "Metrics",
    "ModelSpec",
    "Plan",
    "Restoration",
    "Scores",
    "TrainOptions",
    "channel_sets",
    "compare",
    "describe",
    "evaluate",
    "export",
    "finetune",
    "load",
    "open_dataset",
    "prune",
    "save",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cfp_cli' has no attribute '{name}'")
    return getattr(import_module(f"cfp_cli.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
