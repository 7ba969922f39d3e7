"""The teachers of the fine-tunings of `cfp shrink`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cfp_cli.data.dataset import Dataset
from cfp_cli.foundation.files import sha256
from cfp_cli.runs.candidate_maker import CandidateMaker
from cfp_cli.runs.candidate_work import resumed
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.scored_network import ScoredNetwork
from cfp_cli.runs.train import run_train
from cfp_cli.training.options import TrainOptions

# A second teacher is trained if a class has this many times the images of another one.
UNBALANCED = 2.0
# The training of that teacher, from the original.
BALANCED = TrainOptions.preset("teacher", epochs=5, lr=2e-4, sampler="balanced", views=4)


def balance(dataset: Dataset) -> float:
    """Images of the largest class divided by those of the smallest one that has any, in the training split."""
    counts = [each for each in dataset.counts("train") if each]
    return max(counts) / min(counts)


def teaching(scored: ScoredNetwork, teachers: Sequence[ModelInput]) -> object:
    """What identifies the teachers, before those that are not given are trained."""
    if teachers:
        return [sha256(each.path) for each in teachers if each.path.is_file()]
    balanced = scored.dataset.labelled and balance(scored.dataset) >= UNBALANCED
    return ["original", BALANCED.to_json()] if balanced else ["original"]


@dataclass
class DefaultTeachers:
    """The original, and if the classes are unbalanced a class-balanced teacher, trained from it once in a search."""

    trained: bool = False

    def of(self, maker: CandidateMaker) -> tuple[ModelInput, ...]:
        """Return the teachers."""
        scored, run = maker.scored, maker.run
        ratio = balance(scored.dataset)
        if ratio < UNBALANCED:
            return (scored.model,)
        out = run.folder / "shrink" / "class-balanced.pt"
        options = replace(BALANCED, seed=maker.options.seed)
        if not self.trained:
            scored.progress.say(
                f"the largest class has {ratio:.1f} times the images of the smallest, so a class-balanced teacher is "
                f"trained, {options.epochs} epochs; pass --teachers {scored.model.path} to leave it out"
            )

            def train(resume: bool) -> None:
                with maker.work.within_limit(options) as listen:
                    run_train(
                        scored.data,
                        None,
                        out,
                        options,
                        init=scored.model,
                        resume=resume,
                        device=scored.device,
                        progress=scored.progress,
                        listen=listen,
                    )

            resumed(train)
            self.trained = True
        return scored.model, ModelInput(out, maker.permission.arch, known=True)
