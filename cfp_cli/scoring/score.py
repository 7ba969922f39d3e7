"""One forward pass over sample images that scores every prunable channel.

The Rust core reduces the maps of each tap as soon as they exist, and they are then freed: memory is one batch.

Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), structural similarity and detail richness of feature maps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import cfp_core
from cfp_cli.execution import distributed
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, Tap, channel_sets
from cfp_cli.scoring.clusters import linkage, span
from cfp_cli.scoring.criteria import DEFAULT_RICHNESS, DEFAULT_SIMILARITY, Richness, Similarity
from cfp_cli.scoring.memory import trim_heap
from cfp_cli.scoring.scores import Scores, TapScores
from cfp_cli.scoring.set_scores import scored_sets, set_scores


def score(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    similarity: Similarity = DEFAULT_SIMILARITY,
    richness: Richness = DEFAULT_RICHNESS,
    decimals: int | None = 4,
    graph: ChannelGraph | None = None,
    options: dict[str, Any] | None = None,
    first_image: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Score every channel of every prunable set of `model` over the images of `loader`.

    Args:
        model: a CNN classifier; it runs in eval mode and is not changed.
        loader: batches of (images float32 [N, 3, H, W], labels).
        similarity: distance between channels: `norm` (the paper's), `ssim` or `cosine`.
        richness: score of a channel: `explained-variance`, `rank` (the paper's), `effective-rank`, `entropy` or
            `nuclear`.
        decimals: maps are rounded to this number of decimals before their rank is computed. None: they are not rounded.
        graph: channel sets of the model, if they are known.
        options: facts to store with the scores, such as the hashes of model and images.
        first_image: index in the sample of the first image of the loader. Processes that each score a part of the
            sample all get the scores of the whole sample.
        progress: reports progress.

    Raises:
        DataError: the loader is empty.
        ValueError: a map contains NaN or infinity; the message names tap, image and channel.
    """
    began = time.perf_counter()
    # The core reads maps from host memory. Maps of a network on CUDA are copied once for each tap and batch.
    device = next(model.parameters()).device
    accumulators: dict[str, Any] = {}
    core_seconds = 0.0
    pass_seconds = 0.0
    images = 0

    def reduce(tap: Tap, maps: Tensor) -> None:
        nonlocal core_seconds
        entered = time.perf_counter()
        accumulators[tap.node].update(maps.detach().float().cpu().numpy(), first_image + images)
        core_seconds += time.perf_counter() - entered

    with evaluating(model), torch.inference_mode(), full_precision():
        for batch, _ in progress.track(loader, "scoring", unit="batch"):
            batch = batch.to(device)
            if graph is None:
                graph = channel_sets(model, batch[:1])
            if not accumulators:
                for line in graph.left_alone:
                    progress.say(line)
                accumulators = {
                    tap.node: cfp_core.TapAccumulator(tap.channels, similarity, richness, decimals, name=tap.name)
                    for tap in graph.taps
                }
            trim_heap()
            entered = time.perf_counter()
            graph.read_taps(batch, reduce)
            pass_seconds += time.perf_counter() - entered
            images += len(batch)
    if graph is None:
        raise DataError("no images to score; give a folder with images")
    images = _gather(accumulators, images)
    results = {tap.node: accumulators[tap.node].finish() for tap in graph.taps}
    return Scores(
        taps=tuple(_tap_scores(tap, results[tap.node]) for tap in graph.taps),
        sets=tuple(set_scores(graph, index, results, similarity) for index in scored_sets(graph)),
        similarity=similarity,
        richness=richness,
        images=images,
        input_size=(int(batch.shape[2]), int(batch.shape[3])),
        seconds=time.perf_counter() - began,
        forward_seconds=pass_seconds - core_seconds,
        options={"decimals": decimals, **(options or {})},
    )


def _gather(accumulators: dict[str, Any], images: int) -> int:
    """Merge the accumulators of all processes, in every process; returns the number of all images."""
    workers = distributed.current()
    for rank, (others, count) in enumerate(workers.gather((accumulators, images))):
        if rank != workers.rank:
            images += count
            for node, other in others.items():
                accumulators[node].merge(other)
    return images


def _tap_scores(tap: Tap, result: dict[str, Any]) -> TapScores:
    return TapScores(
        name=tap.name,
        height=result["height"],
        width=result["width"],
        norms=result["norms"].astype(np.float32),
        richness=result["richness"],
        linkage=linkage(result["distance"]),
        span=span(result["distance"]),
        saturated=tuple(
            name for name in ("similarity", "richness") if result[f"saturated_{name}"] and tap.channels > 1
        ),
    )
