"""The network, images and scores of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.progress import Progress, working
from cfp_cli.graph import ChannelGraph, channel_sets
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.pruner import Pruner
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import DataInput, ModelInput, Permission, load_for, scored_data, scored_model
from cfp_cli.runs.outputs import recorded_output
from cfp_cli.runs.records import ScoreRecord
from cfp_cli.scoring.scores import Scores


@dataclass(frozen=True)
class ScoredNetwork:
    """The network, images and scores that a run holds.

    Attributes:
        model: the file of the network.
        data: the source of the images.
        dataset: the images, with the classes in the order of the network's logits.
        network: the network, on the device.
        scores: scores of its channels.
        device: where to compute.
        progress: reports progress.
    """

    model: ModelInput
    data: DataInput
    dataset: Dataset
    network: nn.Module
    scores: Scores
    device: torch.device
    progress: Progress

    @classmethod
    def open(
        cls,
        run: Run,
        model: ModelInput | None,
        permission: Permission,
        device: torch.device,
        progress: Progress,
        data: DataInput | None = None,
    ) -> ScoredNetwork:
        """Open what `cfp score` read and wrote.

        Raises:
            CfpError: the run is not scored, or an input does not fit it.
        """
        source = scored_model(run, model, permission)
        data, dataset = scored_data(run, data, progress)
        network, dataset = load_for(dataset, source, progress)
        scores = Scores.load(recorded_output(run, run.require(ScoreRecord), "scores"))
        return cls(source, data, dataset, network.to(device), scores, device, progress)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the network."""
        return Preprocessing.of(spec_of(self.network))

    def graph(self, pruner: Pruner) -> ChannelGraph:
        """Trace the network on an image of the pruner."""
        image = pruner.proof_images(self.scores).to(self.device)[:1]
        with working(self.progress, "tracing the network"):
            return channel_sets(self.network, image)

    def report_dead(self, plan: Plan) -> None:
        """Say how many dead channels the plan keeps, if any."""
        dead = {name: set(each.dead) for name, each in self.scores.by_set().items()}
        kept = sum(len(dead.get(each.name, set()) & set(each.kept)) for each in plan.sets)
        if kept:
            self.progress.say(
                f"{kept} of {sum(map(len, dead.values()))} channels whose maps are the same for all images are kept; a "
                "higher --ratio drops them before others"
            )
