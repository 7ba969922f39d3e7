"""`cfp score` in a run directory."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass

import torch

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.folders import relative_name
from cfp_cli.data.images import ImageStore, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution import distributed
from cfp_cli.foundation.errors import GraphError
from cfp_cli.foundation.progress import SILENT, Progress, working
from cfp_cli.graph import channel_sets
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import DataInput, ModelInput, fit_to_data, with_or_without_labels, write_splits
from cfp_cli.runs.network_check import returns_logits, warn_of_batch_norms, warn_of_problems
from cfp_cli.runs.records import Inputs, ScoreMetrics, ScoreRecord, output_files
from cfp_cli.runs.run_folder import check_run_folder
from cfp_cli.scoring.criteria import DEFAULT_RICHNESS, DEFAULT_SIMILARITY, Richness, Similarity
from cfp_cli.scoring.score import score
from cfp_cli.scoring.scores import Scores


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `cfp score`.

    Attributes:
        images: number of training images in the stratified sample.
        similarity, richness: criteria, see `cfp_cli.scoring.score`.
        decimals: maps are rounded to this number of decimals before their rank is computed.
        seed: seed of the sample.
        batch_size: number of images in a batch; the scores do not depend on it.
    """

    images: int = 640
    similarity: Similarity = DEFAULT_SIMILARITY
    richness: Richness = DEFAULT_RICHNESS
    decimals: int = 4
    seed: int = 0
    batch_size: int = 8


def run_score(
    run: Run,
    model: ModelInput,
    data: DataInput,
    options: ScoreOptions,
    *,
    require_labels: bool = False,
    device: torch.device,
    progress: Progress = SILENT,
) -> Scores:
    """Score a model over a sample of its training images and write `RUN/scores.safetensors`.

    If the images have no class folders, or the network returns no logits, the images are used without labels. With
    `require_labels`, both are refused.

    If torchrun started several processes, each scores a part of the sample, and the first one writes the file.

    Raises:
        UsageError: the run directory is a folder of the images.
        CfpError: the model, the data or a feature map is invalid.
    """
    began = time.perf_counter()
    check_run_folder(run.folder, data.path)
    workers, device = distributed.join(device)
    network = model.load(progress)
    if not require_labels:
        data = with_or_without_labels(data, network, model.path, progress)
    elif not returns_logits(network):
        raise GraphError(f"{model.path} returns no logits [images, classes], which this command needs; use `cfp score`")
    dataset = data.open(progress)
    network, dataset = fit_to_data(network, dataset, model.path, progress)
    made = {name: len(items) for name, items in dataset.splits.items() if dataset.is_made(name)}
    if made and not data.labels:
        counts = " and ".join(f"{count} for {name}" for name, count in made.items())
        progress.say(f"{data.path} has no {' and no '.join(made)}; a seeded choice of its images is used: {counts}")
    store = sample(dataset, options.images, options.seed, Preprocessing.of(spec_of(network)), progress)
    part = workers.shard(len(store))
    example = next(iter(store.batches(1)))[0].to(device)
    with working(progress, "tracing the network"):
        graph = channel_sets(network.to(device), example)
    if data.labels:
        warn_of_problems(network, example, progress)
    else:
        warn_of_batch_norms(network, progress)
    scores = score(
        network,
        store.batches(options.batch_size, part),
        first_image=part.start,
        graph=graph,
        similarity=options.similarity,
        richness=options.richness,
        decimals=options.decimals,
        options={"seed": options.seed, "sample": _list_hash(store, dataset)},
        progress=progress,
    )
    if not workers.first:
        return scores
    inputs = Inputs(model=model.record(), data=data.record(dataset))
    scores.save(run.scores)
    write_splits(run, dataset)
    run.add(
        ScoreRecord(
            arguments=asdict(options),
            seed=options.seed,
            inputs=inputs,
            outputs=output_files(scores=run.scores),
            seconds=time.perf_counter() - began,
            metrics=ScoreMetrics(scores.images, scores.seconds, scores.forward_seconds),
        )
    )
    return scores


def _list_hash(store: ImageStore, dataset: Dataset) -> str:
    names = (relative_name(path, dataset.root) for path in store.paths)
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
