"""Refit the weights of each remaining layer by least squares, from the first layer to the last.

After slicing, a layer has fewer inputs, and weights that suited all of them. The kept maps predict part of the dropped
ones, above all those of their own cluster. This therefore fits the weights of each layer: from its inputs in the pruned
network, whose earlier layers are fitted already, they compute its outputs in the original as closely as possible.

Source: He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017, equation 1 with the channels
given; Luo et al., ThiNet, ICCV 2017, equation 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.execution.channels_last import faster_format
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress, working
from cfp_cli.graph import ChannelGraph, Selection
from cfp_cli.graph.stream import Stream
from cfp_cli.graph.trace import TracedGraph, arguments_of, operator_of, trace
from cfp_cli.pruning.fitted_layers import FittedLayer, fitted_layers, parameter
from cfp_cli.pruning.layer_fit import BEST_FIT, FitOptions, Layer, fit_layer, patches, with_images

IMAGES = 1024
POSITIONS = 64
# Samples for each input of a layer: the error of the fit is then about a hundredth more than with all positions.
SAMPLES_PER_INPUT = 100
# Below this, noise more than doubles the squared error of a least-squares fit on new images: it grows as n / (n - p).
FEWEST_SAMPLES_PER_INPUT = 2
# Bytes of the original's sampled outputs that are in memory at once, and of the values that the stopped runs of each
# network hold, if these are more than the images. A run that holds nothing starts again from its images.
BUDGET = 1 << 30
# Bytes of the inputs of one layer's samples that are kept for the steps of its fit; more are computed again.
SAMPLES = 1 << 29


@dataclass(frozen=True)
class _Target:
    """Outputs of a layer in the original for one batch.

    Attributes:
        positions: indices of the sampled output positions, int64 [P].
        values: float32 [N, P, outputs].
    """

    positions: Tensor
    values: Tensor


def reconstruct(
    pruned: nn.Module,
    original: nn.Module,
    selection: Selection,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    most: int = IMAGES,
    positions: int = POSITIONS,
    options: FitOptions = BEST_FIT,
    progress: Progress = SILENT,
) -> int:
    """Fit the layers of a pruned network, in place, in the order in which they run.

    Weights are W = argmin Σ ‖Y − X W‖² + λ ‖W − W₀‖² over sampled output positions of all images, where X are the
    layer's inputs in the pruned network, Y its kept outputs in the original, W₀ the sliced weights, and λ is one of the
    ridges times the mean square of an input summed over the samples: the one with the smallest error on samples that
    were not fitted. Batch norm keeps the statistics that were sliced; see
    `recalibrate` for new ones.

    Both networks run once: all batches stop before a layer, and continue when it is fitted. Batches whose values do not
    fit the memory that is set aside start again from their images.

    Args:
        pruned: the network that `rebuild` returned.
        original: the network that the selection's graph was derived from; it is not changed.
        selection: the kept units.
        loader: batches of training images float32 [N, 3, H, W] and labels.
        most: largest number of images, to the next batch. Batches are spread over a longer loader, or are the first
            ones if the loader has no length. They are kept in memory.
        positions: largest number of output positions of a layer that are sampled from each batch. A layer with few
            inputs, such as a depthwise convolution, needs fewer: `SAMPLES_PER_INPUT` samples for each input of a group.
        options: how each layer is fitted.
        progress: reports progress over the layers.

    Returns:
        The number of fitted layers: 2-d convolutions with any number of groups, and linear layers. Those whose weight
        or bias is computed or used more than once, and other convolutions, keep their sliced weights; a message names
        them. Another message says if layers have too few samples.

    Raises:
        DataError: `loader` is empty.
        GraphError: the pruned network cannot be traced.
    """
    device = next(pruned.parameters()).device
    batches = [images.to(device) for images in spread(loader, most)]
    if not batches:
        raise DataError("there are no images to fit the layers to; pass training images")
    targets: dict[str, list[_Target]] = {}
    with evaluating(original), evaluating(pruned), torch.no_grad():
        layers, left = fitted_layers(selection, device)
        budget = max(BUDGET, sum(images.nbytes for images in batches))
        before = _runs_of_original(selection.graph.traced, batches, budget)
        fitting = _Fitting.of(pruned, batches, budget, options)
        few = 0
        for index, layer in enumerate(progress.track(layers, "fitting layers", unit="layer")):
            if layer.weight not in targets:
                targets = _targets(before, layers[index:], positions)
            few += fitting.fit(layer, targets.pop(layer.weight)) < FEWEST_SAMPLES_PER_INPUT
    _report(left, len(layers), progress)
    _report_few_samples(few, len(layers), progress)
    return len(layers)


@dataclass(frozen=True)
class RecordedOutputs:
    """Sampled outputs of the original's layers, to fit many pruned networks to them.

    Attributes:
        batches: the images, float32 [N, C, H, W].
        targets: all outputs of each layer at the sampled positions, by layer and batch.
    """

    batches: Sequence[Tensor]
    targets: Mapping[str, Sequence[_Target]]

    @classmethod
    def of(
        cls,
        original: nn.Module,
        graph: ChannelGraph,
        batches: Sequence[Tensor],
        positions: int = POSITIONS,
        progress: Progress = SILENT,
    ) -> RecordedOutputs:
        """Run the original once and record its layers.

        Args:
            original: the network that the graph was derived from.
            graph: its channel graph.
            batches: images float32 [N, C, H, W].
            positions: largest number of output positions of a layer that are sampled from each batch. It is reduced
                where the values would not fit the memory that is set aside.
            progress: shows that the work is under way.
        """
        with working(progress, "recording the outputs of the original"), evaluating(original), torch.no_grad():
            layers, left = fitted_layers(Selection(graph), batches[0].device)
            images = sum(map(len, batches))
            width = sum(len(layer.outputs) for layer in layers)
            positions = min(max(BUDGET // (4 * images * max(width, 1)), 1), positions)
            stream = _runs_of_original(graph.traced, batches, BUDGET)
            targets: dict[str, list[_Target]] = {}
            while len(targets) < len(layers):
                targets |= _targets(stream, layers[len(targets) :], positions)
        _report(left, len(layers), progress)
        return cls(batches, targets)

    def fit(
        self,
        pruned: nn.Module,
        selection: Selection,
        options: FitOptions = BEST_FIT,
        progress: Progress = SILENT,
    ) -> int:
        """Fit the layers of a pruned network, in place, as `reconstruct` does; return the number of fitted layers."""
        with evaluating(pruned), torch.no_grad():
            layers, _ = fitted_layers(selection, self.batches[0].device)
            fitting = _Fitting.of(pruned, self.batches, BUDGET, options)
            for layer in progress.track(layers, "fitting layers", unit="layer"):
                fitting.fit(
                    layer,
                    [replace(each, values=each.values[..., layer.outputs]) for each in self.targets[layer.weight]],
                )
        return len(layers)


@dataclass(frozen=True)
class _Fitting:
    """A pruned network whose layers are fitted in the order in which they run.

    Attributes:
        pruned: the network.
        stream: its runs.
        nodes: its operator calls, by the name of the weight that they take.
        options: how each layer is fitted.
    """

    pruned: nn.Module
    stream: Stream
    nodes: Mapping[str | None, Node]
    options: FitOptions

    @classmethod
    def of(cls, pruned: nn.Module, batches: Sequence[Tensor], budget: int, options: FitOptions) -> _Fitting:
        stream = Stream(trace(pruned, batches[0][:1]), batches, budget)
        nodes = {parameter(stream.traced, node, "weight"): node for node in stream.traced.nodes}
        return cls(pruned, stream, nodes, options)

    def fit(self, layer: FittedLayer, targets: Sequence[_Target]) -> float:
        """Fit a layer and return the number of samples for each of its inputs."""
        return _fit(self.pruned, layer, self.stream, self.nodes[layer.weight], targets, self.options)


def _runs_of_original(traced: TracedGraph, batches: Sequence[Tensor], budget: int) -> Stream:
    """Runs of the original, which is much larger than pruned networks, in channels-last format if it takes that."""
    memory_format = faster_format(
        traced.model, batches[0], lambda model, images: replace(traced, model=model).run(images)
    )
    return Stream(traced, batches, budget, memory_format)


def _report(left: Sequence[str], fitted: int, progress: Progress) -> None:
    """Say which layers keep their sliced weights."""
    if left:
        weights = list(dict.fromkeys(left))
        names = ", ".join(weights[:3]) + (" and others" if len(weights) > 3 else "")
        progress.say(
            f"{len(left)} of {len(left) + fitted} layers keep their sliced weights, because their weights are computed "
            f"or used more than once, or because they are 1-d, 3-d or transposed convolutions: {names}"
        )


def _report_few_samples(few: int, fitted: int, progress: Progress) -> None:
    """Warn of layers whose fit may be worse on new images than no fit."""
    if few:
        progress.say(
            f"warning: the refit has fewer than {FEWEST_SAMPLES_PER_INPUT} samples for each input in {few} of {fitted} "
            "layers, so it may lower the accuracy; use more training images or larger ones, or compare with "
            "--no-reconstruct"
        )


def spread(loader: Iterable[tuple[Tensor, Tensor]], most: int) -> Iterator[Tensor]:
    """Batches of about `most` images, spread evenly if the length of the loader is known, else the first."""
    wanted: set[int] | None = None
    used = 0
    for index, (images, _) in enumerate(loader):
        if index == 0 and isinstance(loader, Sized):
            batches = min(math.ceil(most / len(images)), len(loader))
            wanted = {each * len(loader) // batches for each in range(batches)}
        if used >= most:
            return
        if wanted is None or index in wanted:
            used += len(images)
            yield images


def _targets(stream: Stream, layers: Sequence[FittedLayer], positions: int) -> dict[str, list[_Target]]:
    """Outputs of the next layers in the original: of at least one, and of as many as fit the budget."""
    images = sum(map(len, stream.batches))
    counts = {each.weight: min(positions, each.positions, _needed(each, images)) for each in layers}
    sizes = np.cumsum([4 * images * counts[layer.weight] * len(layer.outputs) for layer in layers])
    wanted = layers[: max(int((sizes <= BUDGET).sum()), 1)]
    found: dict[str, list[_Target]] = {layer.weight: [] for layer in wanted}
    # Each layer has its own generator, so that its positions do not depend on the other layers in the budget.
    generators = {layer.weight: torch.Generator().manual_seed(0) for layer in wanted}

    by_node = {layer.node: layer for layer in wanted}

    def take(node: Node, value: Tensor) -> None:
        layer = by_node.get(node)
        if layer is None:
            return
        values = _by_position(node, value)
        order = torch.randperm(values.shape[1], generator=generators[layer.weight])
        chosen = order[: counts[layer.weight]].to(values.device)
        found[layer.weight].append(_Target(chosen, values[:, chosen][..., layer.outputs]))

    stop = layers[len(wanted)].node if len(layers) > len(wanted) else None
    for number in range(len(stream.batches)):
        stream.advance(number, stop, take)
    return found


def _needed(layer: FittedLayer, images: int) -> int:
    """Output positions of each image that give enough samples for the inputs of a layer."""
    return math.ceil(SAMPLES_PER_INPUT * (layer.inputs + 1) / images)


def _by_position(node: Node, value: Tensor) -> Tensor:
    """Values [N, positions, channels] of a convolution [N, C, H, W] or of a linear layer [N, ..., C]."""
    if operator_of(node) == "linear":
        value = with_images(value, 2).float()
        return value.reshape(len(value), -1, value.shape[-1])
    return with_images(value, 4).float().flatten(2).transpose(1, 2)


def _fit(
    pruned: nn.Module,
    layer: FittedLayer,
    stream: Stream,
    node: Node,
    targets: Sequence[_Target],
    options: FitOptions,
) -> float:
    """Fit a layer of the pruned network, whose operator call is `node`; return the number of samples for each input."""
    norm = pruned.get_submodule(layer.norm) if layer.norm is not None else None
    assert norm is None or isinstance(norm, _BatchNorm)
    call = arguments_of(node)
    bias = parameter(stream.traced, node, "bias")
    operator = Layer.of(
        call, pruned.get_parameter(layer.weight), pruned.get_parameter(bias) if bias is not None else None
    )
    inputs = math.prod(operator.weight.shape[1:]) * operator.groups
    size = sum(4 * inputs * len(each.values) * len(each.positions) for each in targets)

    def compute(number: int) -> tuple[Tensor, Tensor]:
        target = targets[number]
        given = patches(operator, stream.advance(number, node).values[call["input"]], target.positions)
        return given, target.values.reshape(-1, target.values.shape[-1])

    samples = _Samples(len(targets), compute, [] if size <= SAMPLES else None)
    fit_layer(operator, samples, norm, layer.activation, options)
    return sum(len(each.values) * len(each.positions) for each in targets) / math.prod(operator.weight.shape[1:])


@dataclass(frozen=True)
class _Samples:
    """The samples of a layer, one batch after another.

    Attributes:
        count: number of batches.
        compute: returns the inputs and the outputs in the original for a batch.
        kept: the batches that were computed; None computes them again each time.
    """

    count: int
    compute: Callable[[int], tuple[Tensor, Tensor]]
    kept: list[tuple[Tensor, Tensor]] | None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(self.count):
            if self.kept is None:
                yield self.compute(number)
                continue
            if number == len(self.kept):
                self.kept.append(self.compute(number))
            yield self.kept[number]
