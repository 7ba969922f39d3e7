"""Operators that sum over channels and make new ones: convolution, transposed convolution, linear."""

from __future__ import annotations

import numpy as np

from cfp_cli.graph.labels import Labels, Value, along_only
from cfp_cli.graph.rules.site import Result, Site, rule

COMPUTED = "its weight is computed, not a parameter"
ELSEWHERE = "channels lie along another dimension"
UNKNOWN_INPUT = "it also reads values that belong to no channel"


def _channels(site: Site, value: Value, dim: int) -> Labels:
    """Labels of the input along its channel dimension; frozen and without labels where they lie elsewhere too."""
    if any(other != dim for other in value.varying):
        site.freeze([value], ELSEWHERE)
        return np.full(value.shape[dim], -1)
    return value.along(dim)


def _convolve(site: Site, transposed: bool) -> Result:
    x, weight = site.value("input"), site.parameter("weight")
    if weight is None:
        return site.refuse(COMPUTED)
    shape = site.value("weight").shape
    if len(x.shape) != len(shape):
        return site.refuse("its input has no batch dimension")
    groups = int(site.args["groups"])
    incoming = _channels(site, x, 1)
    site.masked = ("input",)
    ledger, reason = site.ledger, site.reason(UNKNOWN_INPUT)
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    channels, made = x.shape[1], shape[out_dim] * (groups if transposed else 1)
    ledger.consumers.append((site.module, incoming, site.node.name))
    ledger.readers[weight.name, in_dim] = site.args["input"]
    if groups == 1:
        ledger.unite(ledger.of(weight.name, in_dim, (channels,)), incoming, reason)
        outgoing = ledger.of(weight.name, out_dim, (made,))
        ledger.producers.append((site.module, weight.name, outgoing))
    elif groups == channels:
        # Depthwise: a channel goes through alone and makes `made / channels` channels that live and die with it.
        for vector in (weight, site.parameter("bias")):
            if vector is not None:
                ledger.readers[vector.name, 0] = site.args["input"]
        if transposed:
            ledger.unite(ledger.of(weight.name, 0, (channels,)), incoming, reason)
            outgoing = np.repeat(incoming, made // channels)
        else:
            outgoing = ledger.of(weight.name, 0, (made,))
            ledger.unite(outgoing.reshape(channels, -1), incoming[:, None], reason)
    else:
        per_group = incoming.reshape(groups, -1)
        # Each group has its own channels behind the same weight positions, on the side that the weight shares.
        if transposed:
            ledger.unite(ledger.of(weight.name, 0, (channels,)), incoming, reason)
            outgoing = ledger.of(weight.name, 1, (groups, shape[1])).reshape(-1)
        else:
            ledger.unite(ledger.of(weight.name, 1, per_group.shape), per_group, reason)
            outgoing = ledger.of(weight.name, 0, (made,))
        ledger.balance(per_group, tuple(lane.reshape(groups, -1) for lane in x.lanes))
        ledger.balance(outgoing.reshape(groups, -1))
        ledger.producers.append((site.module, weight.name, outgoing))
    site.tie("bias", outgoing)
    return site.out(outgoing.reshape(along_only(made, len(x.shape), 1)))


@rule("conv1d", "conv2d", "conv3d")
def convolution(site: Site) -> Result:
    """Convolution: grouped, depthwise, dilated."""
    return _convolve(site, transposed=False)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(site: Site) -> Result:
    """Transposed convolution; its weight is [in, out / groups, ...]."""
    return _convolve(site, transposed=True)


@rule("convolution")
def any_convolution(site: Site) -> Result:
    """The general convolution that some code calls directly."""
    return _convolve(site, transposed=bool(site.args["transposed"]))


@rule("linear")
def linear(site: Site) -> Result:
    """Linear layer over the last dimension."""
    x, weight = site.value("input"), site.parameter("weight")
    if weight is None:
        return site.refuse(COMPUTED)
    shape = site.value("weight").shape
    last = len(x.shape) - 1
    ledger = site.ledger
    made = ledger.of(weight.name, 0, (shape[0],))
    if x.varying and last not in x.varying:
        # It mixes positions, not channels: channels pass through along their own dimension.
        ledger.freeze(made, site.reason(ELSEWHERE))
        ledger.freeze(ledger.of(weight.name, 1, (shape[1],)), site.reason(ELSEWHERE))
        return site.out(x.labels)
    incoming = _channels(site, x, last)
    site.masked = ("input",)
    ledger.consumers.append((site.module, incoming, site.node.name))
    ledger.readers[weight.name, 1] = site.args["input"]
    ledger.unite(ledger.of(weight.name, 1, (shape[1],)), incoming, site.reason(UNKNOWN_INPUT))
    ledger.producers.append((site.module, weight.name, made))
    site.tie("bias", made)
    return site.out(made.reshape(along_only(shape[0], len(x.shape), last)))
