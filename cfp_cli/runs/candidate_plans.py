"""The plans of `cfp shrink`: what each candidate keeps, by its compression, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.execution.processor import processor
from cfp_cli.exporting import runtimes
from cfp_cli.exporting.layer_times import Setting
from cfp_cli.foundation.content_hash import hash_content
from cfp_cli.foundation.errors import TargetError
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.progress import working
from cfp_cli.graph import Selection
from cfp_cli.measuring.runtimes import Runtime
from cfp_cli.pruning import measured
from cfp_cli.pruning.frontier import START
from cfp_cli.pruning.layer_fit import BEST_FIT
from cfp_cli.pruning.measured import MeasuredLoss
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.planning import default_allocation, make_plan
from cfp_cli.runs.candidate_work import IMAGES, CandidateWork
from cfp_cli.runs.shrink_costs import Costs
from cfp_cli.runs.shrink_rounding import choose_multiple, needs_table
from cfp_cli.runs.validation import VIEWED, VIEWS

# A plan whose compression is less than the desired one by this factor is another one.
CLOSEST = 1.1


@dataclass
class CandidatePlans:
    """Makes the plans of one run.

    Attributes:
        work: refits and fine-tunes what is planned.
    """

    work: CandidateWork

    def __post_init__(self) -> None:
        self.run, self.scored, self.options = self.work.run, self.work.scored, self.work.options
        # Without views: an allocation is measured on images of which no view was fitted.
        self.images, self.graph, self.progress = self.work.originals, self.work.graph, self.work.progress
        scored, options = self.scored, self.options
        self.allocation = options.allocation or default_allocation(options.target, self.images, estimated=True)
        if options.runtime is not None:
            runtimes.require(options.runtime)
        default: Runtime = "onnxruntime" if runtimes.is_available("onnxruntime") else "torch"
        setting = Setting(options.runtime or default, options.threads or torch.get_num_threads(), options.batch)
        self.costs = Costs(
            self.run.folder,
            sha256(scored.model.path),
            scored.network,
            self.graph,
            setting,
            options.costs | ({"latency"} if needs_table(options) else set()),
            self.progress,
        )
        if "latency" in self.costs.measured:
            self.progress.say(f"measuring layers and networks: {setting}, {processor()}")
        with working(self.progress, "choosing the multiple of kept channels"):
            self.round_to = choose_multiple(options, self.graph, self.costs, self._of_macs)
        if options.round_to == "auto" and self.round_to > 1:
            self.progress.say(f"keeping multiples of {self.round_to} channels; --round-to changes that")
        if "latency" in self.costs.measured:
            self.costs.calibrate(self._of_macs(START, self.round_to))

    @cached_property
    def key(self) -> str:
        """Hash of everything that a plan, its refit and its comparison depend on, except the compression."""
        scored, options = self.scored, self.options
        facts = {
            "model": sha256(scored.model.path),
            "spec": spec_of(scored.network).to_json(),
            "scores": sha256(self.run.scores),
            "data": [scored.dataset.fingerprint, dict(scored.dataset.split_origin)],
            "images": IMAGES,
            "fit": asdict(BEST_FIT),
            "prune": replace(self._options(2.0), ratio=0.0).__dict__,
            "seed": options.seed,
            "batch_size": options.batch_size,
            "views": [options.training.augment, VIEWS, VIEWED, self.work.validation.views],
        }
        if options.target in self.costs.measured:
            facts["costs"] = self.costs.identity
        if self.allocation == "measured":
            facts["budgets"] = [str(each) for each in options.budgets]
            facts["quick_fit"] = [measured.IMAGES, measured.FITTED, measured.POSITIONS, asdict(measured.QUICK_FIT)]
        return hash_content(facts)

    def _options(self, compression: float) -> PruneOptions:
        return replace(self.options.prune(compression, self.round_to), allocation=self.allocation)

    def fits(self, plan: Plan) -> bool:
        """Whether the network of a plan fits all budgets."""
        return self._fits(Selection(self.graph, plan.kept))

    def for_budgets(self, compression: float) -> Plan:
        """Return the plan that is nearest to a compression, to see whether it fits the budgets.

        The allocation `measured` starts from the one that is used here, and searches among those that fit.
        """
        options = self._options(compression)
        return self._make(replace(options, allocation="redundancy") if options.allocation == "measured" else options)

    def _fits(self, selection: Selection) -> bool:
        budgets = self.options.budgets
        if not budgets:
            return True
        costs = self.costs.of(selection)
        return all(each.fits(costs) for each in budgets)

    def nearest(self, compression: float) -> Plan:
        """Return the plan that is nearest to a compression.

        Raises:
            TargetError: it belongs to a much larger network.
        """
        plan = self._make(self._options(compression))
        reached = 1 / max(1 - plan.achieved, 1e-9)
        if reached * CLOSEST < compression:
            raise TargetError(
                f"the nearest network has {reached:.3g}x; floors, roundings or frozen channels allow no other"
            )
        return plan

    def _of_macs(self, compression: float, round_to: int) -> Plan:
        """Return the plan whose multiply-adds are nearest to a compression; it is made by redundancy."""
        options = replace(self.options, target="macs", allocation="redundancy").prune(compression, round_to)
        return self._make(options)

    def _make(self, options: PruneOptions) -> Plan:
        scored = self.scored
        return make_plan(
            scored.network,
            scored.scores,
            options,
            graph=self.graph,
            # Small networks have few sizes.
            tolerance=1.0,
            cost=self.costs.total(options.target),
            loss=self._loss if options.allocation == "measured" else None,
            progress=self.progress,
        )

    @cached_property
    def _loss(self) -> Callable[[Selection], float]:
        with working(self.progress, "recording the outputs of the original"):
            loss = MeasuredLoss(self.scored.network, self.graph, self.images)
        return lambda selection: loss(selection) if self._fits(selection) else math.inf
