"""The pruned network that each method starts its fine-tuning from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cfp_cli.checkpoints.checkpoint import fingerprint, spec_of
from cfp_cli.comparing.criteria import rescored
from cfp_cli.comparing.methods import Method
from cfp_cli.comparing.published import reference_plan
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import ImageStore, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, Selection, channel_sets
from cfp_cli.pruning.iterate import prune_in_steps
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.prune import PruneOptions, apply, plan, proof_images
from cfp_cli.pruning.restore import FULL, Restoration
from cfp_cli.scoring.score import score
from cfp_cli.scoring.scores import Scores
from cfp_cli.training.options import Amp
from cfp_cli.training.recovery import Recovery

_BATCH = 64
_SCORED = 8
# Of the epochs of the fine-tuning, what one recovery between two steps of pruning takes.
_RECOVERY = 1 / 8


def recovery_epochs(method: Method, epochs: int) -> int:
    """Epochs of each recovery, so that recoveries and fine-tuning together have `epochs`."""
    return min(max(1, round(_RECOVERY * epochs)), (epochs - 1) // (method.steps - 1)) if method.steps > 1 else 0


@dataclass
class Students:
    """Prunes one network with any method.

    Attributes:
        original: the network, with a spec; it is left as it is.
        dataset: images to score and recover on.
        folder: where scores and teachers' logits are kept.
        images: size of the scored sample.
        device: where to compute.
        restoration: what is done after each rebuild.
        progress: told of what takes long.
    """

    original: nn.Module
    dataset: Dataset
    folder: Path
    images: int
    device: torch.device
    restoration: Restoration = FULL
    progress: Progress = SILENT
    _graph: ChannelGraph | None = None

    def __post_init__(self) -> None:
        self._network = fingerprint(self.original)

    def make(
        self, method: Method, ratio: float, seed: int, recovering: int, amp: Amp = "off"
    ) -> tuple[nn.Module, Plan]:
        """The network that `method` leaves, restored, and its plan.

        Args:
            method: how to choose channels.
            ratio: fraction of the parameters to remove.
            seed: of the sample of images and of every random choice.
            recovering: epochs of each recovery of a method with steps.
            amp: autocast of the recoveries.

        Raises:
            TargetError: the ratio cannot be met.
        """
        spec = spec_of(self.original)
        store = sample(self.dataset, self.images, seed, Preprocessing.of(spec), self.progress)
        loader = store.batches(_BATCH)
        options = PruneOptions(
            ratio=ratio, clusters=method.clusters, allocation=method.allocation, round_to=method.round_to
        )
        if method.steps > 1 and recovering:
            guide = Recovery(
                self.original, self.dataset, self.folder / "cache", recovering, seed, self.device, amp, self.progress
            )
            return prune_in_steps(
                self.original,
                options,
                method.steps,
                score=lambda each: score(each, store.batches(_SCORED), richness=method.richness),
                recover=guide.recover,
                loader=loader,
                restoration=self.restoration,
                progress=self.progress,
            )
        example = proof_images(loader, spec.input_size).to(self.device)
        graph = self._graph = self._graph or channel_sets(self.original, example[:1])
        scores = self._scores(store, method.richness, seed, graph)
        if method.criterion != "scores":
            scores = rescored(scores, method.criterion, self.original, graph, loader, seed)
        chosen = reference_plan if method.reference else plan
        student, made = apply(
            self.original, chosen(self.original, scores, options, graph=graph), graph=graph, example=example
        )
        if method.scratch:
            forget(student, seed)
        else:
            self.restoration.apply(student, self.original, Selection(graph, made.kept), loader, self.progress)
        return student, made

    def _scores(self, store: ImageStore, richness: str, seed: int, graph: ChannelGraph) -> Scores:
        facts = {"network": self._network, "data": self.dataset.fingerprint, "images": self.images}
        path = self.folder / f"scores-{richness}-{seed}.safetensors"
        if path.exists():
            known = Scores.load(path)
            if all(known.options.get(name) == value for name, value in facts.items()):
                return known
        batches = store.batches(_SCORED)
        found = score(self.original, batches, richness=richness, graph=graph, options=facts, progress=self.progress)
        found.save(path)
        return found


def forget(model: nn.Module, seed: int) -> None:
    """Give every layer the weights that it starts training with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
