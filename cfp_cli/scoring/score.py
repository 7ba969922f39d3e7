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
from numpy.typing import NDArray
from torch import Tensor, nn

import cfp_core
from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.execution import distributed
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.errors import DataError, GraphError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, Tap, channel_sets
from cfp_cli.graph.folding import FoldedRun
from cfp_cli.scoring.covariances import Covariances, image_count, tap_richness
from cfp_cli.scoring.criteria import DEFAULT_RICHNESS, DEFAULT_SIMILARITY, Richness, Similarity
from cfp_cli.scoring.dead_channels import SameMaps
from cfp_cli.scoring.memory import FreedMemory, trim_heap
from cfp_cli.scoring.scores import Scores, TapScores
from cfp_cli.scoring.set_scores import TapResult, dead_units, scored_sets, set_scores

# Bytes of a float64.
_DOUBLE = 8


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
        loader: batches of (images float32 [N, 3, H, W], labels). If it is a list, a `DataLoader` or the batches of an
            image store, its number of images is known, and `explained-variance` uses fewer samples of each image of a
            larger loader.
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
        GraphError: no channel of the network can be pruned.
        ValueError: a map contains NaN or infinity; the message names tap, image and channel.
    """
    began = time.perf_counter()
    device = next(model.parameters()).device
    accumulators: dict[str, Any] = {}
    covariances: Covariances | None = None
    same_images = SameMaps()
    same_maps: dict[str, SameMaps] = {}
    core_seconds = 0.0
    pass_seconds = 0.0
    images = 0

    def reduce(tap: Tap, maps: Tensor) -> None:
        nonlocal core_seconds
        entered = time.perf_counter()
        add_maps(accumulators[tap.node], maps.detach(), first_image + images, on_device=on_device)
        same_maps[tap.node].add(maps.detach())
        if covariances is not None:
            covariances.add(tap, maps.detach(), first_image + images)
        core_seconds += time.perf_counter() - entered

    # The core reads maps from host memory. With the defaults, only norms and samples leave a GPU, and no maps.
    on_device = device.type != "cpu" and similarity == "norm" and richness == "explained-variance"
    sample_images = sum(distributed.current().gather(image_count(loader)))
    with evaluating(model), torch.inference_mode(), full_precision():
        for batch, _ in progress.track(loader, "scoring", unit="batch"):
            batch = batch.to(device)
            shape = batch.shape
            if graph is None:
                graph = channel_sets(model, batch[:1])
            if not accumulators:
                # Tracing, the trial rebuild and folding leave freed copies of the weights.
                trim_heap()
                folded = FoldedRun(graph.traced, {tap.node for tap in graph.taps})
                trim_heap()
                for line in graph.left_alone:
                    progress.say(line)
                if not graph.prunable:
                    raise GraphError("no channel of the network can be pruned; `cfp inspect` lists the reasons")
                accumulators = {
                    tap.node: cfp_core.TapAccumulator(
                        tap.channels,
                        similarity,
                        None if richness == "explained-variance" else richness,
                        decimals,
                        name=tap.name,
                    )
                    for tap in graph.taps
                }
                same_maps = {tap.node: SameMaps() for tap in graph.taps}
                if richness == "explained-variance":
                    covariances = Covariances(graph, scored_sets(graph), sample_images)
            same_images.add(batch)
            entered = time.perf_counter()
            graph.read_taps(batch, reduce, folded)
            pass_seconds += time.perf_counter() - entered
            images += len(batch)
    if graph is None:
        raise DataError("no images to score; give a folder with images")
    images = _gather(accumulators, covariances, [same_images, *same_maps.values()], images)
    images_differ = len(same_images.dead(True)) < shape[1]
    dead_channels = {node: maps.dead(images_differ) for node, maps in same_maps.items()}
    # Memory is freed as soon as possible, and returned: the scores need new tables of other sizes.
    del folded, batch
    trim_heap()
    freed = FreedMemory()
    results: dict[str, TapResult] = {}
    for node, dead in dead_channels.items():
        results[node] = TapResult.of(accumulators.pop(node).finish(), dead)
        freed.add(_DOUBLE * len(results[node].distance))
    explained: dict[int, NDArray[np.float64]] = {}
    sets = []
    for index in scored_sets(graph):
        dead = dead_units(graph, index, dead_channels)
        if covariances is not None:
            explained[index] = cfp_core.explained_variance(covariances.take(index, dead))
        sets.append(set_scores(graph, index, results, similarity, explained.get(index), dead))
        freed.add(_DOUBLE * graph.sets[index].size ** 2)
    return Scores(
        taps=tuple(_tap_scores(tap, results[tap.node], explained, dead_channels[tap.node]) for tap in graph.taps),
        sets=tuple(sets),
        similarity=similarity,
        richness=richness,
        images=images,
        input_size=(int(shape[2]), int(shape[3])),
        channels=int(shape[1]),
        seconds=time.perf_counter() - began,
        forward_seconds=pass_seconds - core_seconds,
        options={"decimals": decimals, **(options or {})},
        network=fingerprint(model),
    )


def add_maps(accumulator: Any, maps: Tensor, first_image: int, *, on_device: bool) -> None:
    """Add maps [N, C, H, W] to an accumulator.

    Args:
        accumulator: a `cfp_core.TapAccumulator`.
        maps: the maps, on any device.
        first_image: index in the sample of the first image.
        on_device: torch reduces the maps to norms where they are, and the core gets the norms. Otherwise the core
            reads the maps, from host memory.
    """
    if not on_device:
        accumulator.update(maps.float().cpu().numpy(), first_image)
        return
    norms = torch.linalg.vector_norm(maps.flatten(2), dim=2, dtype=torch.float64)
    accumulator.update_norms(norms.cpu().numpy(), (maps.shape[2], maps.shape[3]), first_image)


def _gather(
    accumulators: dict[str, Any], covariances: Covariances | None, same_maps: list[SameMaps], images: int
) -> int:
    """Merge the accumulators of all processes, in every process; returns the number of all images."""
    workers = distributed.current()
    for maps in same_maps:
        maps.to_cpu()
    own = (accumulators, covariances.accumulators() if covariances else [], same_maps, images)
    for rank, (others, other_covariances, other_maps, count) in enumerate(workers.gather(own)):
        if rank != workers.rank:
            images += count
            for node, other in others.items():
                accumulators[node].merge(other)
            for maps, other_map in zip(same_maps, other_maps, strict=True):
                maps.merge(other_map)
            if covariances:
                covariances.merge(other_covariances)
    return images


def _tap_scores(
    tap: Tap, result: TapResult, explained: dict[int, NDArray[np.float64]], dead: NDArray[np.int64]
) -> TapScores:
    saturated, richness = list(result.saturated), result.richness
    if richness is None:
        richness = tap_richness(tap, explained)
        scored = any(int(index) in explained for index in tap.units[:, 0])
        if scored and bool((richness == richness[0]).all()):
            saturated.append("richness")
        richness[dead] = 0
    return TapScores(
        name=tap.name,
        height=result.height,
        width=result.width,
        norms=result.norms,
        richness=richness,
        linkage=result.linkage,
        span=result.span,
        saturated=tuple(saturated) if tap.channels > 1 else (),
    )
