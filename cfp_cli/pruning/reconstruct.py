"""Refit the weights of each remaining layer by least squares, from the first layer to the last.

After slicing, a layer has fewer inputs, and weights that suited all of them. The kept maps predict part of the dropped
ones, above all those of their own cluster. This therefore fits the weights of each layer: from its inputs in the pruned
network, whose earlier layers are fitted already, they compute its outputs in the original as closely as possible.

Source: He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017, equation 1 with the channels
given; Luo et al., ThiNet, ICCV 2017, equation 7.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, Selection
from cfp_cli.graph.trace import arguments_of, operator_of, shape_of

IMAGES = 1024
POSITIONS = 64
RIDGE = 1e-3
# Bytes of the original's outputs that are in memory at once. Further layers need another pass of the original.
BUDGET = 1 << 30


@dataclass(frozen=True)
class _Layer:
    """A convolution or linear layer that is fitted.

    Attributes:
        name: of the module.
        outputs: indices of its remaining outputs in the original, int64.
        positions: number of output positions of one image.
        norm: the only reader of its outputs, if that is a batch norm, whose mean can absorb an offset; else None.
    """

    name: str
    outputs: Tensor
    positions: int
    norm: str | None


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
    ridge: float = RIDGE,
    progress: Progress = SILENT,
) -> int:
    """Fit the layers of a pruned network, in place, in the order in which they run.

    Weights are W = argmin Σ ‖Y − X W‖² + λ ‖W − W₀‖² over sampled output positions of all images, where X are the
    layer's inputs in the pruned network, Y its kept outputs in the original, W₀ the sliced weights, and λ is `ridge`
    times the mean square of an input summed over the samples. Batch norm keeps the statistics that were sliced; see
    `recalibrate` for new ones.

    Args:
        pruned: the network that `rebuild` returned.
        original: the network that the selection's graph was derived from; it is not changed.
        selection: the kept units.
        loader: batches of training images float32 [N, 3, H, W] and labels.
        most: largest number of images, to the next batch. Batches are spread over a longer loader, or are the first
            ones if the loader has no length. They are kept in memory.
        positions: largest number of output positions of a layer that are sampled from each batch.
        ridge: weight of the distance from the sliced weights.
        progress: reports progress over the layers.

    Returns:
        The number of fitted layers: convolutions (2-d, any number of groups) and linear layers that run once a pass.

    Raises:
        DataError: `loader` is empty.
    """
    device = next(pruned.parameters()).device
    batches = [images.to(device) for images in _spread(loader, most)]
    if not batches:
        raise DataError("there are no images to fit the layers to; pass training images")
    targets: dict[str, list[_Target]] = {}
    with evaluating(original), evaluating(pruned), torch.no_grad():
        layers = _layers(selection, pruned, batches[0][:1])
        for index, layer in enumerate(progress.track(layers, "fitting layers", unit="layer")):
            if layer.name not in targets:
                targets = _targets(original, layers[index:], batches, positions)
            _fit(pruned, layer, batches, targets.pop(layer.name), ridge)
    return len(layers)


def _spread(loader: Iterable[tuple[Tensor, Tensor]], most: int) -> Iterator[Tensor]:
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


def _layers(selection: Selection, pruned: nn.Module, image: Tensor) -> list[_Layer]:
    """Layers that can be fitted, in the order in which they run."""
    graph = selection.graph
    modules = dict(pruned.named_modules(remove_duplicate=False))
    weights = [_parameter(graph, node, "weight") for node in graph.traced.nodes]
    found = []
    for node, weight in zip(graph.traced.nodes, weights, strict=True):
        if weight is None or weights.count(weight) > 1 or operator_of(node) not in ("conv2d", "linear"):
            continue
        name = weight.removesuffix(".weight")
        # A subclass may compute more than its operator.
        if type(modules.get(name)) not in (nn.Conv2d, nn.Linear):
            continue
        _, *shape = shape_of(node)
        width = shape.pop(0 if operator_of(node) == "conv2d" else -1)
        outputs = selection.slices.get((weight, 0), [np.arange(width)])[0]
        found.append(
            _Layer(name, torch.from_numpy(outputs).to(image.device), math.prod(shape), _norm(graph, node, modules))
        )
    # Some code reads a module's weight and never calls the module.
    calls: Counter[str] = Counter()
    with _outputs(pruned, found, lambda layer, _: calls.update([layer.name])):
        pruned(image)
    return [layer for layer in found if calls[layer.name] == 1]


def _parameter(graph: ChannelGraph, node: Node, name: str) -> str | None:
    """Full name of the tensor that an operator takes as `name`."""
    if node.op != "call_function" or not hasattr(node.target, "_schema"):
        return None
    given = arguments_of(node).get(name)
    source = graph.traced.sources.get(given.name) if isinstance(given, Node) else None
    return source.name if source is not None else None


def _norm(graph: ChannelGraph, node: Node, modules: dict[str, nn.Module]) -> str | None:
    """The batch norm of a layer's outputs alone, channel by channel; None if there is none."""
    users = list(node.users)
    mean = _parameter(graph, users[0], "running_mean") if len(users) == 1 else None
    if mean is None or arguments_of(users[0])["input"] is not node:
        return None
    # After a linear layer of several positions, channels are the last dimension and batch norm takes the second.
    if operator_of(node) == "linear" and len(shape_of(node)) != 2:
        return None
    if sum(_parameter(graph, each, "running_mean") == mean for each in graph.traced.nodes) > 1:
        return None
    name = mean.removesuffix(".running_mean")
    return name if isinstance(modules.get(name), _BatchNorm) else None


class _Reached(Exception):  # noqa: N818
    """Stops a forward pass when the inputs of a layer are known."""


def _targets(
    original: nn.Module, layers: Sequence[_Layer], batches: Sequence[Tensor], positions: int
) -> dict[str, list[_Target]]:
    """Outputs of the next layers in the original: of at least one, and of as many as fit the budget."""
    images = sum(map(len, batches))
    sizes = np.cumsum([4 * images * min(positions, layer.positions) * len(layer.outputs) for layer in layers])
    wanted = layers[: max(int((sizes <= BUDGET).sum()), 1)]
    found: dict[str, list[_Target]] = {layer.name: [] for layer in wanted}
    # Each layer has its own generator, so that its positions do not depend on the other layers in the budget.
    generators = {layer.name: torch.Generator().manual_seed(0) for layer in wanted}

    def take(layer: _Layer, value: Tensor) -> None:
        values = _by_position(original.get_submodule(layer.name), value)
        chosen = torch.randperm(values.shape[1], generator=generators[layer.name])[:positions].to(values.device)
        found[layer.name].append(_Target(chosen, values[:, chosen][..., layer.outputs]))

    with _outputs(original, wanted, take):
        for batch in batches:
            original(batch)
    return found


@contextmanager
def _outputs(model: nn.Module, layers: Iterable[_Layer], take: Callable[[_Layer, Tensor], None]) -> Iterator[None]:
    """Pass the outputs of layers to `take` while the network runs."""
    handles = [
        model.get_submodule(layer.name).register_forward_hook(lambda _, __, value, layer=layer: take(layer, value))
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_position(module: nn.Module, value: Tensor) -> Tensor:
    """Outputs [N, positions, channels] of a convolution [N, C, H, W] or of a linear layer [N, ..., C]."""
    if isinstance(module, nn.Linear):
        return value.reshape(len(value), -1, value.shape[-1])
    return value.flatten(2).transpose(1, 2)


def _inputs(pruned: nn.Module, module: nn.Module, images: Tensor) -> Tensor:
    reached: list[Tensor] = []

    def stop(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        reached.append(given[0] if given else named["input"])
        raise _Reached

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        pruned(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    return reached[0]


def _fit(pruned: nn.Module, layer: _Layer, batches: Sequence[Tensor], targets: Sequence[_Target], ridge: float) -> None:
    module = pruned.get_submodule(layer.name)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    norm = pruned.get_submodule(layer.norm) if layer.norm is not None else None
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    gram = cross = torch.zeros(())
    offset = module.bias is not None or norm is not None
    for images, target in zip(batches, targets, strict=True):
        given = _patches(module, _inputs(pruned, module, images), target.positions, groups)
        if offset:
            given = torch.cat([given, given.new_ones(*given.shape[:2], 1)], 2)
        wanted = target.values.reshape(-1, groups, target.values.shape[-1] // groups).transpose(0, 1)
        gram = gram + (given.transpose(1, 2) @ given).double()
        cross = cross + (given.transpose(1, 2) @ wanted).double()
    weight = module.weight.reshape(groups, len(module.weight) // groups, -1).transpose(1, 2).double()
    if offset:
        bias = module.bias if module.bias is not None else torch.zeros(len(module.weight), device=weight.device)
        weight = torch.cat([weight, bias.double().reshape(groups, 1, -1)], 1)
    squares = gram.diagonal(dim1=1, dim2=2)
    held = ridge * squares.mean(1, keepdim=True).expand_as(squares)
    # If all inputs are zero, this keeps the system solvable and the weights unchanged.
    system = gram + torch.diag_embed(held.clamp_min(torch.finfo(torch.float32).tiny))
    weight = weight + torch.linalg.solve(system, cross - gram @ weight)
    if offset:
        found = weight[:, -1].reshape(-1)
        weight = weight[:, :-1]
        if module.bias is not None:
            module.bias.copy_(found)
        else:
            assert isinstance(norm, _BatchNorm)
            assert norm.running_mean is not None
            norm.running_mean.sub_(found)
    module.weight.copy_(weight.transpose(1, 2).reshape(module.weight.shape))


def _patches(module: nn.Conv2d | nn.Linear, given: Tensor, positions: Tensor, groups: int) -> Tensor:
    """The inputs of each sampled output, float32 [groups, N · P, inputs of a group]."""
    if isinstance(module, nn.Linear):
        return _by_position(module, given)[:, positions].flatten(0, 1)[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(given, module._reversed_padding_repeated_twice, mode)
    reach = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    width = (padded.shape[3] - reach[1]) // module.stride[1] + 1
    corners = (positions // width * module.stride[0], positions % width * module.stride[1])
    steps = [
        torch.arange(k, device=positions.device) * d for k, d in zip(module.kernel_size, module.dilation, strict=True)
    ]
    rows = corners[0][:, None, None] + steps[0][:, None]
    columns = corners[1][:, None, None] + steps[1][None, :]
    # [N, C, P, kh, kw] -> [groups, N · P, C / groups · kh · kw], the order of the weights.
    found = padded[:, :, rows, columns]
    found = found.reshape(len(found), groups, -1, *found.shape[2:]).permute(1, 0, 3, 2, 4, 5)
    return found.flatten(3).flatten(1, 2)
