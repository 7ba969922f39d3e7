"""Resize the tensors of a network to their shapes after pruning, and update the attributes of its modules.

A pruned checkpoint stores the name of the architecture and the tensors. It needs no indices of dropped channels: the
shapes contain how many channels each tensor keeps, and the attributes of a module (`in_channels`, `groups`,
`num_features`, ...) follow from the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cfp_cli.foundation.errors import CheckpointError

# Attributes in which modules of other libraries, such as anti-aliasing filters, store their number of channels.
COUNTS = ("channels", "num_channels", "num_features")


def resize_tensors(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Replace parameters and buffers by uninitialised ones of the given shapes, and update module attributes.

    Tensors that have the right shape are kept. A tensor with several names stays one tensor. A resized buffer that
    was not persistent becomes persistent, because the constructor of the network can no longer compute it.

    Args:
        model: a freshly built network; changed in place.
        shapes: shapes by name, as in a state dict; unknown names are ignored.

    Raises:
        CheckpointError: a tensor would change its number of dimensions, or the heads of an attention their size.
    """
    replaced: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        resized: set[tuple[int, int]] = set()
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                full_name = f"{path}.{name}" if path else name
                if id(old) not in replaced:
                    shape = tuple(shapes.get(full_name, old.shape))
                    if shape == tuple(old.shape):
                        continue
                    if len(shape) != old.dim():
                        raise CheckpointError(
                            f"'{full_name}' has shape {tuple(old.shape)} in this architecture and {shape} in the file; "
                            "pass the right --arch"
                        )
                    # Keep a reference to the old tensor, so that no new tensor gets its id.
                    replaced[id(old)] = _empty(old, shape)
                    replaced[-id(old)] = old
                tensors[name] = new = replaced[id(old)]
                module._non_persistent_buffers_set.discard(name)
                resized.add((len(old), len(new)))
        if resized:
            _update_attributes(module, resized)


def _empty(old: Tensor, shape: tuple[int, ...]) -> Tensor:
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _update_attributes(module: nn.Module, resized: set[tuple[int, int]]) -> None:
    """Set the channel counts of a module; `resized` contains (old length, new length) of its resized tensors."""
    if isinstance(module, _ConvNd):
        _update_convolution(module)
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
    elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        module.embed_dim = module.kdim = module.vdim = module.in_proj_weight.shape[1]
        # Heads are dropped whole.
        module.num_heads, rest = divmod(module.embed_dim, module.head_dim)
        if rest:
            raise CheckpointError(
                f"an attention of {module.embed_dim} channels has no heads of {module.head_dim} channels; "
                "pass the --arch with which it was saved"
            )
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif len(resized) == 1:
        ((before, after),) = resized
        for name in COUNTS:
            if vars(module).get(name) == before:
                setattr(module, name, after)


def _update_convolution(module: _ConvNd) -> None:
    first, second = module.weight.shape[:2]
    depthwise = module.groups > 1 and module.groups == module.in_channels
    if isinstance(module, _ConvTransposeNd):
        if depthwise:
            module.groups = first
        module.in_channels, module.out_channels = first, second * module.groups
        return
    if depthwise:
        # The number of output channels for each input channel does not change.
        module.groups = first // (module.out_channels // module.groups)
    module.in_channels, module.out_channels = second * module.groups, first
