"""Normalisations and other operators with one parameter a channel."""

from __future__ import annotations

import numpy as np

from cfp_cli.graph.labels import along_only
from cfp_cli.graph.rules.site import Result, Site, rule

ELSEWHERE = "channels lie along another dimension"


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "prelu")
def per_channel(site: Site) -> Result:
    """Batch norm, instance norm, PReLU: every channel by itself, with parameters along dimension 1."""
    tensors = site.tensors()
    value = tensors[0][1]
    if any(dim != 1 for dim in value.varying) or len(value.shape) < 2:
        return site.refuse(ELSEWHERE)
    if site.operator == "prelu" and site.value("weight").shape in ((), (1,)):
        return site.out(value.labels)
    channels = value.along(1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        site.tie(name, channels)
        source = site.parameter(name)
        if source is not None:
            site.ledger.readers[source.name, 0] = tensors[0][0]
    return site.out(channels.reshape(along_only(len(channels), len(value.shape), 1)))


@rule("layer_norm", "rms_norm")
def layer_norm(site: Site) -> Result:
    """Norm over the last dimensions; over channels where they lie there."""
    value = site.value("input")
    first = len(value.shape) - len(site.args["normalized_shape"])
    inside = [dim for dim in value.varying if dim >= first]
    if not inside:
        return site.out(value.labels)
    if len(value.varying) > 1:
        return site.refuse("it normalises over channels and more")
    (dim,) = inside
    for name in ("weight", "bias"):
        node = site.args.get(name)
        if node is None:
            continue
        source = site.source(node)
        if source is None:
            return site.refuse(f"its {name} cannot be sliced with the channels")
        atoms = site.ledger.of(source.name, dim - first, (value.shape[dim],))
        site.ledger.unite(atoms, value.along(dim), site.reason(f"its {name} cannot be sliced with the channels"))
    site.mixes = True
    return site.out(value.labels)


@rule("group_norm")
def group_norm(site: Site) -> Result:
    """Norm over groups of channels, which must keep equal counts."""
    value = site.value("input")
    if any(dim != 1 for dim in value.varying):
        return site.refuse(ELSEWHERE)
    channels = value.along(1)
    if (channels >= 0).any():
        groups = int(site.args["num_groups"])
        lanes = tuple(lane.reshape(groups, -1) for lane in value.lanes)
        site.ledger.balance(channels.reshape(groups, -1), lanes)
        site.mixes = True
    for name in ("weight", "bias"):
        site.tie(name, channels)
    return site.out(channels.reshape(along_only(len(channels), len(value.shape), 1)))


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "normalize")
def softmax(site: Site) -> Result:
    """Softmax along one dimension: over channels, or over copies of the same channels."""
    value = site.tensors()[0][1]
    dim = int(site.args["dim"]) % len(value.shape)
    if dim not in value.varying:
        return site.out(value.labels)
    if value.varying == (dim,):
        site.mixes = True
        return site.out(value.labels)
    first = value.labels.take([0], dim)
    site.ledger.unite(value.labels, first, site.reason("channels meet values that belong to none"))
    return site.out(np.array(first))
