"""The pruning pipeline: plan, rebuild, prove, refit, in one round or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.typed_json import quoted
from cfp_cli.graph import ChannelGraph, Selection, channel_sets
from cfp_cli.graph.widths import changed_attributes
from cfp_cli.pruning.allocation import TOLERANCE
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan, PlanMisfitError
from cfp_cli.pruning.planning import fraction_left, make_plan
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.refit import FULL, Refit
from cfp_cli.pruning.verify import verify
from cfp_cli.scoring.scores import Scores

Loader = Iterable[tuple[Tensor, Tensor]]
Planner = Callable[..., Plan]

PROOF_IMAGES = 4
# How far from its share a round before the last may be: the last round makes up for it.
ROUND_TOLERANCE = 0.03


@dataclass(frozen=True)
class Rounds:
    """Pruning in several rounds: what happens between two of them.

    Attributes:
        count: number of rounds.
        score: scores a network.
        recover: trains a pruned network a little and returns it.
    """

    count: int
    score: Callable[[nn.Module], Scores]
    recover: Callable[[nn.Module], nn.Module]


def ignore(_stage: str, _network: nn.Module) -> None:
    """Do nothing with a stage of a prune."""


@dataclass(frozen=True)
class Pruner:
    """Prunes networks.

    Attributes:
        loader: batches of training images (float32 [N, C, H, W]) and labels, the same in each pass, on which each
            rebuild is proven and refitted. None: the proof uses seeded noise, and the network keeps its sliced tensors.
        refit: what is done after each rebuild.
        planner: makes the plan of a round; `make_plan` or a function of the same form.
        on_stage: called with the name of each stage of a round and the network: `rebuilt`, then `reconstructed` or
            `recalibrated` where `refit` does something.
        progress: reports progress.
    """

    loader: Loader | None = None
    refit: Refit = FULL
    planner: Planner = make_plan
    on_stage: Callable[[str, nn.Module], None] = ignore
    progress: Progress = SILENT

    def prune(
        self,
        model: nn.Module,
        scores: Scores,
        options: PruneOptions,
        *,
        graph: ChannelGraph | None = None,
        rounds: Rounds | None = None,
    ) -> tuple[nn.Module, Plan]:
        """Prune a network to a target.

        With several rounds, every round removes the same fraction of what remains. After each round but the last the
        network is trained a little and scored again; fine-tuning follows the last one.

        Args:
            model: the network that `scores` were made with; it is not changed.
            scores: scores of its channels.
            options: the target and how to reach it.
            graph: the network's channel graph, if it is known already.
            rounds: for several rounds, what happens between two of them.

        Returns:
            The pruned network, in eval mode, and one plan from the original's channels to those that are kept.

        Raises:
            UsageError: several rounds have no ratio, or a ratio of latency.
            TargetError: a round's target cannot be met.
            ProofError: a rebuilt network differs from its channel-zeroed original.
        """
        current, total = model, None
        count = rounds.count if rounds is not None else 1
        for number in range(1, count + 1):
            graph = graph or channel_sets(current, self.proof_images(scores).to(_device(current))[:1])
            asked = options if count == 1 else round_options(options, number, count, total)
            tolerance = TOLERANCE if number == count else ROUND_TOLERANCE
            plan = self.planner(
                current,
                scores,
                asked,
                graph=graph,
                tolerance=tolerance,
                loader=self.loader,
                progress=self.progress,
            )
            pruned, plan = self.carry_out(current, plan, graph=graph, scores=scores)
            total = plan if total is None else total.followed_by(plan)
            if rounds is not None and number < count:
                self.progress.say(f"round {number} of {count}: {1 - fraction_left(total, options.target):.2%} removed")
                current, graph = rounds.recover(pruned).eval(), None
                scores = rounds.score(current)
        assert total is not None
        if rounds is None:
            return pruned, total
        achieved = 1 - fraction_left(total, options.target)
        return pruned, replace(
            total, requested=options.ratio, achieved=achieved, options={**total.options, "rounds": count}
        )

    def carry_out(self, model: nn.Module, plan: Plan, *, graph: ChannelGraph, scores: Scores) -> tuple[nn.Module, Plan]:
        """Rebuild a network as a plan says, prove the rebuild, and refit it.

        Args:
            model: the original network; it is not changed.
            plan: what is kept.
            graph: the network's channel graph.
            scores: the network's scores, whose input size the proof uses.

        Returns:
            The pruned network in eval mode, and the plan with the proof's error.

        Raises:
            RunError: the plan is not one of this network.
            ProofError: the rebuilt network differs from the channel-zeroed original.
        """
        example = self.proof_images(scores).to(_device(model))
        pruned, plan = apply(model, plan, graph=graph, example=example)
        self.on_stage("rebuilt", pruned)
        if self.loader is not None and self.refit.stage is not None:
            self.refit.apply(pruned, model, Selection(graph, plan.kept), self.loader, self.progress)
            self.on_stage(self.refit.stage, pruned)
        return pruned, plan

    def proof_images(self, scores: Scores) -> Tensor:
        """A few images for the proof: the first of the loader, or seeded noise of the scored input size."""
        for images, _ in self.loader or ():
            return images[:PROOF_IMAGES]
        return torch.rand(PROOF_IMAGES, *scores.input_shape, generator=torch.Generator().manual_seed(0))


def round_options(options: PruneOptions, number: int, count: int, done: Plan | None = None) -> PruneOptions:
    """The options of one round: every round removes the same fraction of what remains.

    Args:
        options: the options of the prune, with a ratio of parameters or multiply-adds.
        number: the round, from 1.
        count: number of rounds.
        done: the plan of the rounds before it.

    Raises:
        UsageError: there is no ratio, or it is of latency.
    """
    if options.ratio is None or options.target == "latency":
        raise UsageError("pruning in rounds needs --ratio with --target params or macs; leave out --rounds")
    wanted = (1 - options.ratio) ** (number / count)
    remaining = 1.0 if done is None else fraction_left(done, options.target)
    return replace(options, ratio=max(1 - wanted / remaining, 0.0))


def apply(model: nn.Module, plan: Plan, *, graph: ChannelGraph, example: Tensor) -> tuple[nn.Module, Plan]:
    """Rebuild a network as a plan says and prove the rebuild; batch norm keeps its sliced statistics.

    Args:
        model: the original network; it is not changed.
        plan: what is kept.
        graph: the network's channel graph.
        example: images float32 [N, C, H, W] for the proof.

    Returns:
        The pruned network in eval mode, and the plan with the proof's error.

    Raises:
        PlanMisfitError: the plan is not one of this network.
        ProofError: the rebuilt network differs from the channel-zeroed original.
    """
    sizes = {each.name: each.size for each in graph.sets}
    for each in plan.sets:
        if sizes.get(each.name) != each.channels:
            found = "no such set" if each.name not in sizes else f"{sizes[each.name]} channels in it"
            raise PlanMisfitError(
                f"the plan does not fit this network: sets has {quoted(each.name)} with {each.channels} channels, the "
                f"network has {found}; pass the checkpoint it was made for"
            )
    selection = Selection(graph, plan.kept)
    pruned = rebuild(model, selection)
    # Before any forward pass of the rebuilt network: modules may also store other numbers in one, such as a counter.
    attributes = changed_attributes(model, pruned, foreign=graph.widths)
    error = verify(model, pruned, selection, example)
    return pruned.eval(), replace(plan, max_abs_logit_error=error, attributes=attributes)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
