"""One forward pass over sample images that scores every prunable channel.

Each tap's maps go to its accumulator in the Rust core while they are hot and are dropped at once: memory is one batch.
Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), structural similarity and detail richness of feature maps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import squareform
from torch import Tensor, nn

import cfp_core
from cfp_cli.execution import distributed
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, Tap, channel_sets
from cfp_cli.scoring.clusters import linkage, span
from cfp_cli.scoring.memory import give_back
from cfp_cli.scoring.scores import Scores, SetScores, TapScores


def score(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    similarity: str = "norm",
    richness: str = "explained-variance",
    decimals: int | None = 4,
    graph: ChannelGraph | None = None,
    options: dict[str, Any] | None = None,
    first_image: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Score every channel of every prunable set of `model` over the images of `loader`.

    Args:
        model: a CNN classifier; it is run in eval mode and left as it was.
        loader: batches of (images float32 [N, 3, H, W], labels).
        similarity: distance between channels: `norm` (the paper's), `ssim` or `cosine`.
        richness: detail of a channel: `explained-variance`, `rank` (the paper's), `effective-rank`, `entropy` or
            `nuclear`.
        decimals: maps are rounded to so many decimals before their rank is taken; None does not round.
        graph: the model's channel sets, where they are known already.
        options: facts to be kept in the scores, such as the hashes of model and images.
        first_image: number of the loader's first image in the whole sample. Processes of one group that each score a
            part of the sample all get the scores of the whole.
        progress: told of every batch.

    Raises:
        DataError: the loader is empty.
        ValueError: a map holds NaN or infinity; the message names tap, image and channel.
    """
    began = time.perf_counter()
    # A network on CUDA gives its maps there; the core reads them from host memory, after one copy a tap and batch.
    device = next(model.parameters()).device
    accumulators: dict[str, Any] = {}
    inside = 0.0
    passes = 0.0
    images = 0

    def reduce(tap: Tap, maps: Tensor) -> None:
        nonlocal inside
        entered = time.perf_counter()
        accumulators[tap.node].update(maps.detach().float().cpu().numpy(), first_image + images)
        inside += time.perf_counter() - entered

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
            give_back()
            entered = time.perf_counter()
            graph.read_taps(batch, reduce)
            passes += time.perf_counter() - entered
            images += len(batch)
    if graph is None:
        raise DataError("no images to score; give a folder with images")
    images = _gather(accumulators, images)
    finished = {tap.node: accumulators[tap.node].finish() for tap in graph.taps}
    taps = tuple(_tap_scores(tap, finished[tap.node]) for tap in graph.taps)
    sets = tuple(_set_scores(graph, index, finished, similarity) for index in _scored_sets(graph))
    return Scores(
        taps=taps,
        sets=sets,
        similarity=similarity,
        richness=richness,
        images=images,
        input_size=(int(batch.shape[2]), int(batch.shape[3])),
        seconds=time.perf_counter() - began,
        forward_seconds=passes - inside,
        options={"decimals": decimals, **(options or {})},
    )


def _gather(accumulators: dict[str, Any], images: int) -> int:
    """Merge what the processes of a group accumulated, on each of them; gives the number of all images."""
    workers = distributed.current()
    for rank, (others, count) in enumerate(workers.gather((accumulators, images))):
        if rank != workers.rank:
            images += count
            for node, other in others.items():
                accumulators[node].merge(other)
    return images


def _tap_scores(tap: Tap, finished: dict[str, Any]) -> TapScores:
    return TapScores(
        name=tap.name,
        height=finished["height"],
        width=finished["width"],
        norms=finished["norms"].astype(np.float32),
        richness=finished["richness"],
        linkage=linkage(finished["distance"]),
        span=span(finished["distance"]),
        saturated=tuple(
            name for name in ("similarity", "richness") if finished[f"saturated_{name}"] and tap.channels > 1
        ),
    )


def _scored_sets(graph: ChannelGraph) -> list[int]:
    return [index for index, group in enumerate(graph.sets) if not group.frozen and _taps_of(graph, index)]


def _taps_of(graph: ChannelGraph, index: int) -> list[Tap]:
    return [tap for tap in graph.taps if bool((tap.units[:, 0] == index).any())]


def _set_scores(graph: ChannelGraph, index: int, finished: dict[str, dict[str, Any]], similarity: str) -> SetScores:
    """Unite the taps of one set: their images are further samples of the same channels."""
    size = graph.sets[index].size
    richness: list[NDArray[np.float64]] = []
    norms: list[NDArray[np.float64]] = []
    distances: list[NDArray[np.float64]] = []
    correlations: list[NDArray[np.float64]] = []
    taps = _taps_of(graph, index)
    for tap in taps:
        result = finished[tap.node]
        channels = np.flatnonzero(tap.units[:, 0] == index)
        units = tap.units[channels, 1]
        rich = _per_unit(result["richness"][None, channels], units, size)[0]
        mean = np.nanmean(rich)
        richness.append(rich / mean if len(taps) > 1 and mean > 0 else rich)
        norms.append(_per_unit(result["norms"][:, channels] / result["height"], units, size))
        if result["covariance"] is not None:
            correlations.append(_correlation(result["covariance"], channels, units, size))
        if similarity != "norm":
            distances.append(_square(result["distance"], channels, units, size))
    whole = [table for table in norms if not np.isnan(table).any()]
    mean_norm = _mean([table.mean(axis=0) for table in norms])
    # Where no tap shows the whole set, a channel's norms are averaged over the taps that show it.
    table = np.ascontiguousarray(np.nan_to_num(np.concatenate(whole) if whole else _mean(norms)))
    if similarity == "norm":
        distance = cfp_core.pairwise_distance(table, 1)
    else:
        square = _mean(distances)
        # Channels that no tap shows together count as unlike as any two that are shown.
        square = np.where(np.isnan(square), np.nanmax(square), square)
        distance = squareform(square, checks=False)
    # A single tap that shows every unit in one channel has been scored as the set would be.
    alone = len(taps) == 1 and np.array_equal(taps[0].units, [(index, unit) for unit in range(size)])
    return SetScores(
        name=graph.sets[index].name,
        richness=cfp_core.explained_variance(np.sum(correlations, axis=0))
        if correlations and not alone
        else np.nan_to_num(_mean(richness)),
        distance=distance.astype(np.float32),
        norm=np.nan_to_num(mean_norm),
        effective=effective_channels(table),
    )


def effective_channels(norms: NDArray[np.float64]) -> float:
    """Effective rank of standardised norms [N, C]: how many channels vary independently, between 1 and C.

    exp of the Shannon entropy of the squared singular values, as shares of their sum (Roy & Vetterli 2007); channels
    that do not vary count for nothing.
    """
    centred = norms - norms.mean(axis=0)
    spread = centred.std(axis=0)
    live = spread > 1e-9 * max(float(norms.max()), 1e-300)
    if not live.any():
        return 1.0
    table = centred[:, live] / spread[live]
    # Squares of singular values are the eigenvalues of the smaller Gram matrix, which are far cheaper to have.
    gram = table @ table.T if table.shape[0] < table.shape[1] else table.T @ table
    share = np.linalg.eigvalsh(gram)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _per_unit(values: NDArray[np.float64], units: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Values of tap channels [N, channels] as units [N, size]: the mean of each unit's channels, NaN for none."""
    total = np.zeros((size, len(values)))
    np.add.at(total, units, values.T)
    count = np.bincount(units, minlength=size).astype(float)
    count[count == 0] = np.nan
    mean: NDArray[np.float64] = (total / count[:, None]).T
    return mean


def _correlation(
    covariance: NDArray[np.float64], channels: NDArray[np.int64], units: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    """Correlation of units [size, size] over one tap; 0 for those that it does not show or that do not vary."""
    summed = np.zeros((size, size))
    np.add.at(summed, np.ix_(units, units), covariance[np.ix_(channels, channels)])
    deviation = np.sqrt(np.diag(summed))
    scale = np.divide(1, deviation, out=np.zeros(size), where=deviation > 0)
    found: NDArray[np.float64] = summed * scale[:, None] * scale
    return found


def _square(
    distance: NDArray[np.float64], channels: NDArray[np.int64], units: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    square = np.full((size, size), np.nan)
    square[np.ix_(units, units)] = squareform(distance)[np.ix_(channels, channels)]
    return square


def _mean(tables: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over the tables that hold a number, NaN where none does."""
    stacked = np.stack(tables)
    held = ~np.isnan(stacked)
    count = held.sum(axis=0).astype(float)
    count[count == 0] = np.nan
    mean: NDArray[np.float64] = np.where(held, stacked, 0.0).sum(axis=0) / count
    return mean
