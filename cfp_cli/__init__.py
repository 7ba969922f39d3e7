"""Collaborative filter pruning: shrink defect-inspection CNNs 40 to 100 times without losing the rare classes.

Everything that a script needs is imported from here. A name is loaded when it is first used, so that
`import cfp_cli` and `cfp --help` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# The public names and the modules that define them. `__all__` and `__getattr__` follow from this table; the imports
# below repeat it for type checkers, and a test compares the two.
_MODULES = {
    "checkpoints.load": ("load",),
    "checkpoints.save": ("save",),
    "checkpoints.spec": ("ModelSpec", "describe"),
    "comparing.grid": ("compare",),
    "comparing.rows": ("Comparison",),
    "data.dataset": ("Dataset", "open_dataset"),
    "data.images": ("load_images",),
    "data.masks": ("MaskBatches",),
    "data.without_labels": ("open_without_labels",),
    "data.transforms": ("Preprocessing",),
    "exporting.export": ("ExportReport", "export"),
    "foundation.errors": ("CfpError",),
    "graph": ("ChannelGraph", "channel_sets"),
    "measuring.metrics": ("Metrics", "evaluate"),
    "measuring.segmentation": ("SegmentationMetrics", "evaluate_segmentation"),
    "models.registry": ("create",),
    "pruning.plan": ("Plan",),
    "pruning.prune": ("prune",),
    "pruning.refit": ("Refit",),
    "runs.python_shrink": ("shrink",),
    "runs.shrunk": ("Shrunk",),
    "scoring.score": ("score",),
    "scoring.scores": ("Scores",),
    "training.finetune": ("finetune",),
    "training.history": ("History",),
    "training.options": ("TrainOptions",),
    "training.train": ("train",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from cfp_cli.checkpoints.load import load as load
    from cfp_cli.checkpoints.save import save as save
    from cfp_cli.checkpoints.spec import ModelSpec as ModelSpec
    from cfp_cli.checkpoints.spec import describe as describe
    from cfp_cli.comparing.grid import compare as compare
    from cfp_cli.comparing.rows import Comparison as Comparison
    from cfp_cli.data.dataset import Dataset as Dataset
    from cfp_cli.data.dataset import open_dataset as open_dataset
    from cfp_cli.data.images import load_images as load_images
    from cfp_cli.data.masks import MaskBatches as MaskBatches
    from cfp_cli.data.transforms import Preprocessing as Preprocessing
    from cfp_cli.data.without_labels import open_without_labels as open_without_labels
    from cfp_cli.exporting.export import ExportReport as ExportReport
    from cfp_cli.exporting.export import export as export
    from cfp_cli.foundation.errors import CfpError as CfpError
    from cfp_cli.graph import ChannelGraph as ChannelGraph
    from cfp_cli.graph import channel_sets as channel_sets
    from cfp_cli.measuring.metrics import Metrics as Metrics
    from cfp_cli.measuring.metrics import evaluate as evaluate
    from cfp_cli.measuring.segmentation import SegmentationMetrics as SegmentationMetrics
    from cfp_cli.measuring.segmentation import evaluate_segmentation as evaluate_segmentation
    from cfp_cli.models.registry import create as create
    from cfp_cli.pruning.plan import Plan as Plan
    from cfp_cli.pruning.prune import prune as prune
    from cfp_cli.pruning.refit import Refit as Refit
    from cfp_cli.runs.python_shrink import shrink as shrink
    from cfp_cli.runs.shrunk import Shrunk as Shrunk
    from cfp_cli.scoring.score import score as score
    from cfp_cli.scoring.scores import Scores as Scores
    from cfp_cli.training.finetune import finetune as finetune
    from cfp_cli.training.history import History as History
    from cfp_cli.training.options import TrainOptions as TrainOptions
    from cfp_cli.training.train import train as train


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cfp_cli' has no attribute '{name}'")
    return getattr(import_module(f"cfp_cli.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
