"""`cfp prune` in a run directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.images import load_images, sample
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.measuring.output_error import output_error
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.planning import make_plan
from cfp_cli.pruning.pruner import Pruner, Rounds, round_options
from cfp_cli.pruning.reconstruct import IMAGES
from cfp_cli.pruning.refit import FULL, Refit
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import NO_PERMISSION, ModelInput, Permission
from cfp_cli.runs.output_path import check_output
from cfp_cli.runs.pruned_files import prune_record, save_pruned
from cfp_cli.runs.scored_network import ScoredNetwork
from cfp_cli.scoring.score import score
from cfp_cli.training.recovery import Recovery


@dataclass(frozen=True)
class Pruned:
    """The result of `cfp prune`.

    Attributes:
        plan: the plan, with the proof's error.
        output_error: error of the outputs on the validation images by stage, see `output_error`.
        validation: metrics on the validation split by stage, in their order: `before`, `rebuilt`, and `reconstructed`
            or `recalibrated`; empty for images without labels.
        out: the checkpoint.
    """

    plan: Plan
    output_error: Mapping[str, float]
    validation: Mapping[str, Metrics]
    out: Path


def plan_prune(
    run: Run,
    model: ModelInput | None,
    request: PruneOptions | Plan,
    *,
    rounds: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    permission: Permission = NO_PERMISSION,
    device: torch.device,
    progress: Progress = SILENT,
) -> Plan:
    """The plan of a prune; writes nothing.

    Of several rounds this is the plan of the first. The later ones depend on the training between them.

    Args:
        run: the run directory.
        model: the model, which must be the one that was scored; None takes that one.
        request: options, or a plan, which is checked and returned.
        rounds: number of rounds.
        batch_size: images a batch; only the allocation `measured` uses images.
        seed: seed of the sample of training images.
        permission: what the user allows for a model that the run directory names.
        device: where to compute.
        progress: reports progress.

    Raises:
        CfpError: an input does not fit the run, or the target cannot be met.
    """
    scored = ScoredNetwork.open(run, model, permission, device, progress)
    if isinstance(request, Plan):
        return _one_round(request)
    options = round_options(request, 1, rounds) if rounds > 1 else request
    images = None
    if options.allocation in (None, "measured") and options.ratio is not None:
        images = sample(scored.dataset, IMAGES, seed, scored.preprocessing, progress).batches(batch_size)
    graph = scored.graph(Pruner(progress=progress))
    return make_plan(scored.network, scored.scores, options, graph=graph, loader=images, progress=progress)


def run_prune(
    run: Run,
    model: ModelInput | None,
    request: PruneOptions | Plan,
    *,
    rounds: int = 1,
    recovery_epochs: int = 10,
    out: Path | None = None,
    refit: Refit = FULL,
    batch_size: int = 64,
    seed: int = 0,
    permission: Permission = NO_PERMISSION,
    device: torch.device,
    progress: Progress = SILENT,
) -> Pruned:
    """Prune the model that the run was scored with; writes `RUN/pruned.pt` and `RUN/plan.json` once the proof holds.

    Args:
        run: the run directory.
        model: the model, which must be the one that was scored; None takes that one.
        request: options to make a plan by, or a plan to carry out again.
        rounds: number of rounds, with a recovery between two of them.
        recovery_epochs: epochs of each recovery, a distillation from the original network.
        out: where the checkpoint goes, if not `RUN/pruned.pt`.
        refit: what is done after each rebuild, on a sample of training images.
        batch_size: images a batch.
        seed: seed of the sample of training images.
        permission: what the user allows for a model that the run directory names.
        device: where to compute.
        progress: reports progress.

    Raises:
        CfpError: an input does not fit the run, the target cannot be met, or the proof fails.
    """
    began = time.perf_counter()
    scored = ScoredNetwork.open(run, model, permission, device, progress)
    path = out or run.pruned
    check_output(path, inputs=[scored.model.path, scored.data.path], run=run.folder, own=[run.pruned.name])
    spec = spec_of(scored.network)
    images = sample(scored.dataset, IMAGES, seed, scored.preprocessing, progress).batches(batch_size)
    validation: dict[str, Metrics] = {}
    errors: dict[str, float] = {}
    held_out = load_images(scored.dataset, "val", scored.preprocessing, progress=progress)

    def measure(stage: str, network: nn.Module) -> None:
        if not scored.dataset.labelled:
            errors[stage] = output_error(
                network, scored.network, held_out.batches(batch_size), classes=len(spec.classes)
            )
        else:
            validation[stage] = evaluate(network, held_out.batches(batch_size), spec.classes, progress=progress)

    measure("before", scored.network)
    pruner = Pruner(images, refit, on_stage=measure, progress=progress)
    graph = scored.graph(pruner)
    if isinstance(request, Plan):
        pruned, plan = pruner.carry_out(scored.network, _one_round(request), graph=graph, scores=scored.scores)
        arguments: dict[str, Any] = {"plan": request.options}
    else:
        if rounds > 1:
            scored.dataset.require_labels("--rounds")
        between = _rounds(scored, run, rounds, recovery_epochs, seed, batch_size) if rounds > 1 else None
        pruned, plan = pruner.prune(scored.network, scored.scores, request, graph=graph, rounds=between)
        arguments = {**asdict(request), "rounds": rounds}
    scored.report_dead(plan)
    save_pruned(scored, pruned, plan, path, run.plan)
    outputs = {"pruned": path, "plan": run.plan}
    run.add(prune_record(scored, plan, outputs, arguments, seed, validation, time.perf_counter() - began))
    return Pruned(plan, errors, validation, path)


def _one_round(plan: Plan) -> Plan:
    if plan.options.get("rounds", 1) > 1:
        raise RunError(
            "this plan has several rounds with training between them; repeat its command with --rounds instead"
        )
    return plan


def _rounds(scored: ScoredNetwork, run: Run, count: int, epochs: int, seed: int, batch_size: int) -> Rounds:
    """Between two rounds: a recovery from the original network, and scores made as the run's were."""
    cache, progress = run.folder / "cache", scored.progress
    recovery = Recovery(scored.network, scored.dataset, cache, epochs, seed, scored.device, progress=progress)
    images = sample(scored.dataset, scored.scores.images, scored.scores.options["seed"], scored.preprocessing, progress)
    criteria: dict[str, Any] = {
        "similarity": scored.scores.similarity,
        "richness": scored.scores.richness,
        "decimals": scored.scores.options["decimals"],
    }
    return Rounds(
        count,
        lambda network: score(network, images.batches(batch_size), **criteria, progress=progress),
        recovery.recover,
    )
