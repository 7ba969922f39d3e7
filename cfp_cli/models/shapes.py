"""Give a network the tensor shapes of its pruned self, and its modules the attributes that go with them.

A pruned checkpoint is its architecture's name and its tensors. Which channels went is no longer needed: the shapes say
how many are left, and the modules' own counts (`in_channels`, `groups`, `num_features`, ...) follow from the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cfp_cli.foundation.errors import CheckpointError

# Where modules of other makes, such as anti-aliasing filters, keep how many channels their tensors have.
COUNTS = ("channels", "num_channels", "num_features")


def fit(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give parameters and buffers the shapes that `shapes` names, with undefined content, and mend module attributes.

    Tensors that already have their shape are left alone. A tensor under several names stays one tensor. A buffer that
    state dicts leave out enters them with its new shape: the network's constructor can no longer compute it.

    Args:
        model: a freshly built network; changed in place.
        shapes: shapes by name, as in a state dict; unknown names are ignored.

    Raises:
        CheckpointError: a tensor would change its number of dimensions.
    """
    replaced: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        resized: set[tuple[int, int]] = set()
        for held in (module._parameters, module._buffers):
            for name, old in held.items():
                if old is None:
                    continue
                full = f"{path}.{name}" if path else name
                if id(old) not in replaced:
                    shape = tuple(shapes.get(full, old.shape))
                    if shape == tuple(old.shape):
                        continue
                    if len(shape) != old.dim():
                        raise CheckpointError(
                            f"'{full}' has shape {tuple(old.shape)} in this architecture and {shape} in the file; "
                            "pass the right --arch"
                        )
                    # The old tensor is kept beside the new one so that its id cannot be given to another.
                    replaced[id(old)] = _empty(old, shape)
                    replaced[-id(old)] = old
                held[name] = new = replaced[id(old)]
                module._non_persistent_buffers_set.discard(name)
                resized.add((len(old), len(new)))
        if resized:
            _mend(module, resized)


def _empty(old: Tensor, shape: tuple[int, ...]) -> Tensor:
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _mend(module: nn.Module, resized: set[tuple[int, int]]) -> None:
    """Set the channel counts that a module keeps beside its tensors, of which `resized` has old and new lengths."""
    if isinstance(module, _ConvNd):
        _mend_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        vector = module.weight if module.weight is not None else module.running_mean
        assert vector is not None
        module.num_features = len(vector)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif len(resized) == 1:
        ((before, after),) = resized
        for name in COUNTS:
            if vars(module).get(name) == before:
                setattr(module, name, after)


def _mend_convolution(module: _ConvNd) -> None:
    first, second = module.weight.shape[:2]
    depthwise = module.groups > 1 and module.groups == module.in_channels
    if isinstance(module, _ConvTransposeNd):
        if depthwise:
            module.groups = first
        module.in_channels, module.out_channels = first, second * module.groups
        return
    if depthwise:
        # Each input channel keeps its number of output channels.
        module.groups = first // (module.out_channels // module.groups)
    module.in_channels, module.out_channels = second * module.groups, first
