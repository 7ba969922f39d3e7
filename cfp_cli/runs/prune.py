"""`cfp prune` in a run directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from cfp_cli.checkpoints.checkpoint import ModelSpec, save, spec_of
from cfp_cli.data.images import ImageStore, load_images, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.pruning.iterate import prune_in_steps
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.prune import PruneOptions, apply, plan, proof_images
from cfp_cli.pruning.reconstruct import IMAGES
from cfp_cli.pruning.restore import FULL, Restoration
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import ModelInput, load_for, scored_data, scored_model
from cfp_cli.runs.records import Inputs, PruneMetrics, PruneRecord, output_files
from cfp_cli.scoring.score import score
from cfp_cli.scoring.scores import Scores
from cfp_cli.training.recovery import Recovery


@dataclass(frozen=True)
class Pruned:
    """What a prune came to.

    Attributes:
        plan: the plan, with the proof's error.
        validation: metrics on the validation split by stage, in their order: `before` any change, `rebuilt`, and
            `reconstructed` or `recalibrated`; empty for a dry run.
        out: the checkpoint, or None for a dry run.
    """

    plan: Plan
    validation: Mapping[str, Metrics] = field(default_factory=dict)
    out: Path | None = None


def run_prune(
    run: Run,
    model: ModelInput | None,
    options: PruneOptions | None,
    *,
    replay: Plan | None = None,
    steps: int = 1,
    recovery_epochs: int = 10,
    out: Path | None = None,
    restoration: Restoration = FULL,
    dry_run: bool = False,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device,
    progress: Progress = SILENT,
) -> Pruned:
    """Prune the model that the run was scored with; writes `RUN/pruned.pt` and `RUN/plan.json` once the proof holds.

    Args:
        run: the run directory.
        model: the model, which must be the one that was scored; None takes that one.
        options: what is asked for; None with `replay`.
        replay: a plan to carry out again instead of making one.
        steps: prune in so many steps, with a recovery between them.
        recovery_epochs: epochs of each recovery, a distillation from the original network.
        out: where the checkpoint goes, if not `RUN/pruned.pt`.
        restoration: what is done after the rebuild, on a sample of training images.
        dry_run: make the plan and write nothing.
        batch_size: images a batch.
        seed: seed of the sample of training images.
        device: where to compute.
        progress: told of what takes long.

    Raises:
        CfpError: an input does not fit the run, the target cannot be met, or the proof fails.
    """
    began = time.perf_counter()
    source = scored_model(run, model)
    data, dataset = scored_data(run, None, progress)
    network = load_for(dataset, source, progress).to(device)
    spec = spec_of(network)
    scores = Scores.load(run.scores)
    if replay is not None and replay.options.get("steps", 1) > 1:
        raise RunError(
            "this plan was made in steps with training between them; repeat its command with --steps instead"
        )
    images = sample(dataset, IMAGES, seed, Preprocessing.of(spec), progress).batches(batch_size)
    example = proof_images(images, scores.input_size).to(device)
    graph = channel_sets(network, example[:1])
    in_steps = steps > 1 and not dry_run
    if replay is not None:
        made = replay
    else:
        assert options is not None
        made = plan(network, scores, options, graph=graph)
    if dry_run:
        return Pruned(made)
    if in_steps:
        assert options is not None
        guide = Recovery(network, dataset, run.folder / "cache", recovery_epochs, seed, device, progress=progress)
        criteria = {
            "similarity": scores.similarity,
            "richness": scores.richness,
            "decimals": scores.options["decimals"],
        }
        scored = sample(dataset, scores.images, scores.options["seed"], Preprocessing.of(spec), progress)
        pruned, made = prune_in_steps(
            network,
            options,
            steps,
            score=lambda each: score(each, scored.batches(batch_size), **criteria, progress=progress),
            recover=guide.recover,
            loader=images,
            restoration=restoration,
            progress=progress,
        )
    else:
        pruned, made = apply(network, made, graph=graph, example=example)
    held_out = load_images(dataset, "val", Preprocessing.of(spec), progress=progress)
    validation = {"before": _measured(network, held_out, spec, batch_size, progress)}
    if not in_steps:
        validation["rebuilt"] = _measured(pruned, held_out, spec, batch_size, progress)
        restoration.apply(pruned, network, Selection(graph, made.kept), images, progress)
    if in_steps or restoration.stage is not None:
        validation[restoration.stage or "rebuilt"] = _measured(pruned, held_out, spec, batch_size, progress)
    model_record = source.record()
    path = out or run.pruned
    facts = {"from": model_record.sha256, "compression": made.compression, "achieved": made.achieved}
    save(path, pruned, replace(spec.followed_by("prune", **facts), plan=made.to_json()))
    made.save(run.plan)
    run.add(
        PruneRecord(
            arguments={**(asdict(options) if options is not None else {"plan": made.options}), "steps": steps},
            seed=seed,
            inputs=Inputs(model=model_record, data=data.record(dataset)),
            outputs=output_files(pruned=path, plan=run.plan),
            seconds=time.perf_counter() - began,
            metrics=PruneMetrics(
                made.params_before,
                made.params_after,
                made.compression,
                made.max_abs_logit_error,
                {stage: metrics.accuracy for stage, metrics in validation.items()},
            ),
        )
    )
    return Pruned(made, validation, path)


def _measured(model: nn.Module, store: ImageStore, spec: ModelSpec, batch_size: int, progress: Progress) -> Metrics:
    return evaluate(model, store.batches(batch_size), spec.classes, progress=progress)
