"""Normalisations and other operators with one parameter a channel."""

from __future__ import annotations

import numpy as np

from cfp_cli.graph.labels import along_only
from cfp_cli.graph.operators.operator import OperatorCall, Result, always, operator

ELSEWHERE = "channels are not on the channel dimension of this layer"


@operator("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "prelu", transparent=always)
def per_channel(call: OperatorCall) -> Result:
    """Batch norm, instance norm, PReLU: every channel by itself, with parameters along dimension 1."""
    tensors = call.tensors()
    value = tensors[0][1]
    if any(dim != 1 for dim in value.varying) or len(value.shape) < 2:
        return call.refuse(ELSEWHERE)
    if call.operator == "prelu" and call.value("weight").shape in ((), (1,)):
        return call.output(value.labels)
    channels = value.along(1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        call.tie(name, channels)
        source = call.parameter(name)
        if source is not None:
            call.facts.readers[source.name, 0] = tensors[0][0]
    return call.output(channels.reshape(along_only(len(channels), len(value.shape), 1)))


@operator("layer_norm", "rms_norm")
def layer_norm(call: OperatorCall) -> Result:
    """Norm over the last dimensions; over channels where they lie there."""
    value = call.value("input")
    first = len(value.shape) - len(call.args["normalized_shape"])
    inside = [dim for dim in value.varying if dim >= first]
    if not inside:
        return call.output(value.labels)
    if len(value.varying) > len(inside):
        # Each head is normalised by itself, so whole heads are kept or dropped.
        return call.output(call.together(value.labels, inside))
    if len(inside) > 1:
        return call.refuse("it normalises over channels and more")
    (dim,) = inside
    for name in ("weight", "bias"):
        node = call.args.get(name)
        if node is None:
            continue
        source = call.source(node)
        if source is None:
            return call.refuse(f"its {name} cannot be sliced with the channels")
        atoms = call.facts.atoms(source.name, dim - first, (value.shape[dim],))
        call.facts.unite(atoms, value.along(dim), call.reason(f"its {name} cannot be sliced with the channels"))
    call.mixes = True
    return call.output(value.labels)


@operator("group_norm")
def group_norm(call: OperatorCall) -> Result:
    """Norm over groups of channels, which must keep equal counts."""
    value = call.value("input")
    if any(dim != 1 for dim in value.varying):
        return call.refuse(ELSEWHERE)
    channels = value.along(1)
    if (channels >= 0).any():
        groups = int(call.args["num_groups"])
        lanes = tuple(lane.reshape(groups, -1) for lane in value.lanes)
        call.facts.balance(channels.reshape(groups, -1), lanes)
        call.mixes = True
    for name in ("weight", "bias"):
        call.tie(name, channels)
    return call.output(channels.reshape(along_only(len(channels), len(value.shape), 1)))


@operator("softmax", "log_softmax", "_softmax", "_log_softmax", "normalize")
def softmax(call: OperatorCall) -> Result:
    """Softmax along one dimension: over channels, or over copies of the same channels."""
    value = call.tensors()[0][1]
    dim = int(call.args["dim"]) % len(value.shape)
    if dim not in value.varying:
        return call.output(value.labels)
    if value.varying == (dim,):
        call.mixes = True
        return call.output(value.labels)
    first = value.labels.take([0], dim)
    call.facts.unite(value.labels, first, call.reason("channels meet values that belong to none"))
    return call.output(np.array(first))
