"""The pruned network that each method starts its fine-tuning from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.comparing.criteria import rescored
from cfp_cli.comparing.methods import Method
from cfp_cli.comparing.published import published_plan
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.image_hash import hash_images
from cfp_cli.data.images import ImageStore, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, channel_sets
from cfp_cli.pruning.options import PruneOptions, Target
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.planning import make_plan
from cfp_cli.pruning.pruner import Pruner, Rounds
from cfp_cli.pruning.refit import FULL, Refit
from cfp_cli.scoring.criteria import Richness
from cfp_cli.scoring.score import score
from cfp_cli.scoring.scores import Scores
from cfp_cli.training.options import Amp
from cfp_cli.training.recovery import Recovery

_BATCH = 64
_SCORED = 8
# Share of the epochs of the fine-tuning that one recovery between two rounds of pruning takes.
_RECOVERY = 1 / 8
_WITHOUT_REFIT = Refit(reconstruct=False, recalibrate=False)


def recovery_epochs(method: Method, epochs: int) -> int:
    """Epochs of each recovery, so that recoveries and fine-tuning together have `epochs`."""
    return min(max(1, round(_RECOVERY * epochs)), (epochs - 1) // (method.rounds - 1)) if method.rounds > 1 else 0


@dataclass
class Students:
    """Prunes one network with any method.

    Attributes:
        original: the network, with a spec; it is not changed.
        dataset: images to score and recover on.
        folder: folder of the scores and of the teachers' logits.
        images: size of the scored sample.
        device: where to compute.
        refit: what is done after each rebuild.
        progress: reports progress.
        data: hash of the images, see `hash_images`.
    """

    original: nn.Module
    dataset: Dataset
    folder: Path
    images: int
    device: torch.device
    refit: Refit = FULL
    progress: Progress = SILENT
    _graph: ChannelGraph | None = None

    def __post_init__(self) -> None:
        self._network = fingerprint(self.original)
        # Scores and finished rows are not computed again, so the sizes of the files are not enough.
        self.data = hash_images(self.dataset)

    def make(
        self,
        method: Method,
        ratio: float,
        seed: int,
        recovering: int,
        amp: Amp = "off",
        target: Target = "params",
        like: Plan | None = None,
    ) -> tuple[nn.Module, Plan]:
        """The network that a method prunes, refitted, and its plan.

        Args:
            method: how to choose channels.
            ratio: fraction of the target to remove.
            seed: of the sample of images and of every random choice.
            recovering: epochs of each recovery of a method with several rounds; 0 prunes in one round.
            amp: autocast of the recoveries.
            target: what the ratio counts.
            like: a plan of this network; each set then keeps as many channels as there, whatever the ratio and the
                allocation of the method.

        Raises:
            TargetError: the ratio cannot be met.
        """
        spec = spec_of(self.original)
        store = sample(self.dataset, self.images, seed, Preprocessing.of(spec), self.progress)
        loader = store.batches(_BATCH)
        options = PruneOptions(
            ratio=ratio if like is None else None,
            rates=None if like is None else rates_of(like),
            target=target,
            clusters=method.clusters,
            allocation=method.allocation,
            round_to=method.round_to,
        )
        pruner = Pruner(
            loader,
            _WITHOUT_REFIT if method.scratch else self.refit,
            published_plan if method.published else make_plan,
            progress=self.progress,
        )
        first = next(iter(loader))[0][:1].to(self.device)
        graph = self._graph = self._graph or channel_sets(self.original, first)
        scores = self._scores(store, method.richness, seed, graph)
        if method.criterion != "scores":
            scores = rescored(scores, method.criterion, self.original, graph, loader, seed)
        rounds = self._rounds(method, store, seed, recovering, amp) if method.rounds > 1 and recovering else None
        student, plan = pruner.prune(self.original, scores, options, graph=graph, rounds=rounds)
        if method.scratch:
            forget(student, seed)
        return student, plan

    def _rounds(self, method: Method, store: ImageStore, seed: int, epochs: int, amp: Amp) -> Rounds:
        cache = self.folder / "cache"
        recovery = Recovery(self.original, self.dataset, cache, epochs, seed, self.device, amp, self.progress)
        return Rounds(
            method.rounds,
            lambda network: score(network, store.batches(_SCORED), richness=method.richness),
            recovery.recover,
        )

    def _scores(self, store: ImageStore, richness: Richness, seed: int, graph: ChannelGraph) -> Scores:
        facts = {"data": self.data, "images": self.images}
        path = self.folder / f"scores-{richness}-{seed}.safetensors"
        if path.exists():
            known = Scores.load(path)
            if known.network == self._network and all(
                known.options.get(name) == value for name, value in facts.items()
            ):
                return known
        batches = store.batches(_SCORED)
        found = score(self.original, batches, richness=richness, graph=graph, options=facts, progress=self.progress)
        found.save(path)
        return found


def rates_of(plan: Plan) -> str:
    """The rates that remove as many channels from each set as a plan."""
    sets = [each for each in plan.sets if not each.frozen]
    return "+".join(f"[{1 - len(each.kept) / each.channels:.9f}]" for each in sets)


def forget(model: nn.Module, seed: int) -> None:
    """Give every layer the weights that it starts training with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
