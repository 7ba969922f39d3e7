"""Turn training-time RepVGG blocks into single convolutions."""

from __future__ import annotations

import copy

from torch import nn

from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.models.repvgg import RepVGGBlock, fused_block


def fuse(model: nn.Module) -> nn.Module:
    """A copy of a network with every RepVGG training block replaced by the one convolution that computes the same.

    Channels that were pruned stay pruned; the original is left as it is.

    Raises:
        CheckpointError: the network has no such block.
    """
    made = copy.deepcopy(model)
    blocks = [name for name, module in made.named_modules() if isinstance(module, RepVGGBlock)]
    if not blocks:
        raise CheckpointError("the network has no RepVGG training block to fuse; it may be fused already")
    for name in blocks:
        parent, _, child = name.rpartition(".")
        block = made.get_submodule(name)
        assert isinstance(block, RepVGGBlock)
        setattr(made.get_submodule(parent), child, fused_block(block))
    return made
