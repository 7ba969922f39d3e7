"""Replace the head of a network, to train it on other classes."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.models.added_head import ADDED_HEAD, feature_count
from cfp_cli.models.head import head_tensors
from cfp_cli.models.input_channels import set_input_channels
from cfp_cli.models.registry import create
from cfp_cli.models.state_dict import load_state, module_versions, with_versions


def with_new_head(model: nn.Module, classes: tuple[str, ...]) -> nn.Module:
    """Copy a network and give the copy a new head. All other weights are those of `model`.

    A network of which no tensor depends on the number of classes is an encoder. It gets a linear layer as its head.

    Args:
        model: a network that was not pruned, with its spec; it is not changed.
        classes: class names in the order of the new logits.

    Returns:
        The copy in eval mode, with its spec. The weights of the new head come from torch's random generator.

    Raises:
        CheckpointError: the network has no spec or is pruned.
        UsageError: an encoder returns something else than features.
    """
    spec = spec_of(model)
    if spec.plan is not None:
        raise CheckpointError("a pruned network keeps its head; start from the network that it was pruned from")
    head = head_tensors(spec.arch, spec.arch_kwargs)
    if not head:
        features = feature_count(model, spec.input_shape)
        spec = replace(spec, arch_kwargs={**spec.arch_kwargs, ADDED_HEAD: features})
    copy = create(spec.arch, len(classes), **spec.arch_kwargs)
    set_input_channels(copy, spec.channels, spec.input_size)
    state = model.state_dict()
    body = {name: value for name, value in state.items() if name not in head}
    target = copy.get_submodule("encoder") if not head else copy
    load_state(target, with_versions(body, module_versions(state)), strict=False)
    return describe(copy.eval(), replace(spec, classes=classes))
