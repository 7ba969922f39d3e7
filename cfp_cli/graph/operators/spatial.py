"""Operators that work on maps channel by channel: pooling, interpolation, padding, pixel and channel shuffle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cfp_cli.graph.labels import along_only
from cfp_cli.graph.operators import reorder
from cfp_cli.graph.operators.operator import OperatorCall, Result, always, operator

POOLS = [
    f"{adaptive}{kind}_pool{n}d{suffix}"
    for n in (1, 2, 3)
    for adaptive in ("", "adaptive_")
    for kind in ("max", "avg")
    for suffix in ("", "_with_indices")
]
UPSAMPLES = ["upsample_nearest", "_upsample_nearest_exact", "upsample_bilinear", "upsample_linear", "upsample_bicubic"]


@operator(
    *POOLS,
    *(f"{name}{n}d" for name in (*UPSAMPLES, "upsample_trilinear") for n in (1, 2, 3)),
    *(f"_{name}{n}d_aa" for name in ("upsample_bilinear", "upsample_bicubic") for n in (2,)),
    *(f"{name}_pad{n}d" for name in ("reflection", "replication") for n in (1, 2, 3)),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    transparent=always,
)
def per_map(call: OperatorCall) -> Result:
    """Every map by itself: channels along dimension 1 of a batched value."""
    value = call.tensors()[0][1]
    if any(dim != 1 for dim in value.varying) or (value.labelled and not value.dynamic[0]):
        return call.refuse("channels are not on the channel dimension of this operator")
    outs = [call.value_of(value.labels, shape, dynamic) for shape, dynamic in call.shapes()]
    return outs[0] if len(outs) == 1 else outs


@operator("pad", "constant_pad_nd")
def pad(call: OperatorCall) -> Result:
    """Padding by a constant or by edge values; padded channels belong to no set."""
    value = call.tensors()[0][1]
    amounts = [int(amount) for amount in call.args["pad"]]
    labels = value.labels
    for last in range(len(amounts) // 2):
        dim = len(value.shape) - 1 - last
        before, after = amounts[2 * last : 2 * last + 2]
        if dim not in value.varying or (before == 0 and after == 0):
            continue
        if min(before, after) < 0 or call.args.get("mode", "constant") != "constant":
            return call.refuse("channels are cut or repeated")
        widths = [(before, after) if d == dim else (0, 0) for d in range(labels.ndim)]
        labels = np.pad(labels, widths, constant_values=-1)
    return call.output(labels)


@operator("pixel_shuffle")
def pixel_shuffle(call: OperatorCall) -> Result:
    """Blocks of r * r channels become pixels of one channel and are kept or dropped together."""
    value = call.tensors()[0][1]
    if value.varying and value.varying != (1,):
        return call.refuse("channels are not on the channel dimension of this operator")
    factor = int(call.args["upscale_factor"]) ** 2
    blocks = value.along(1).reshape(-1, factor)
    call.facts.unite(blocks, blocks[:, :1], call.reason("channels meet values that belong to none"))
    return call.output(blocks[:, 0].reshape(along_only(len(blocks), len(value.shape), 1)))


@operator("pixel_unshuffle")
def pixel_unshuffle(call: OperatorCall) -> Result:
    """Pixels of a channel become r * r channels, all with its label."""
    value = call.tensors()[0][1]
    if value.varying and value.varying != (1,):
        return call.refuse("channels are not on the channel dimension of this operator")
    repeated = np.repeat(value.along(1), int(call.args["downscale_factor"]) ** 2)
    return call.output(repeated.reshape(along_only(len(repeated), len(value.shape), 1)))


@operator("channel_shuffle", "native_channel_shuffle", reorder=reorder.shuffled, moves_channels=True)
def channel_shuffle(call: OperatorCall) -> Result:
    """Interleave equal groups of channels."""
    value = call.tensors()[0][1]
    if value.varying and value.varying != (1,):
        return call.refuse("channels are not on the channel dimension of this operator")
    rows = value.along(1).reshape(int(call.args["groups"]), -1)
    call.facts.balance(rows)
    call.facts.rearranged = True
    shape = along_only(rows.size, len(value.shape), 1)
    turned = [lane.reshape(rows.shape).T.reshape(shape) for lane in value.lanes]
    lanes = (np.tile(np.arange(len(rows)), rows.shape[1]).reshape(shape), *turned)
    return replace(call.output(rows.T.reshape(shape)), lanes=lanes)
