"""The preprocessing of a network whose file does not store it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.checkpoints.spec import DEFAULT_INPUT_SIZE, ModelSpec
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.models.input_channels import COLOURS, input_channels

_PLAIN = (0.0, 1.0)
# Names that networks give to the mean by which they normalise their images.
_NORMALISING = re.compile(r"_?((pixel|image|img|input|norm|rgb|data|imagenet|channel)_?)?means?_?")


@dataclass(frozen=True)
class Assumed:
    """What the caller states about a file that does not store its preprocessing.

    Attributes:
        input_size: height and width in pixels.
        mean, std: of each channel, or one value for all.
        like: another network of the same run, whose preprocessing is taken where nothing else states it.
    """

    input_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    like: ModelSpec | None = None


def complete(spec: ModelSpec, model: nn.Module, assumed: Assumed, stored: Sequence[str]) -> tuple[ModelSpec, str]:
    """Complete the preprocessing of a spec: what the file stores, then what the caller states, then a default.

    The default is that of the network `like`, else the one that timm publishes for a network of timm, else images of
    224 x 224 pixels without mean and std.

    Args:
        spec: the spec, as far as the file states it.
        model: the network.
        assumed: what the caller states.
        stored: the fields that the file states, of `input_size`, `mean` and `std`.

    Returns:
        The spec, and where its mean and std come from, as words for a message.

    Raises:
        UsageError: the stated values do not fit the network.
    """
    published = _published(model) if assumed.like is None else {}
    size = spec.input_size
    if "input_size" not in stored:
        like_size = assumed.like.input_size if assumed.like is not None else None
        size = assumed.input_size or like_size or published.get("input_size") or DEFAULT_INPUT_SIZE
    try:
        spec = replace(spec, input_size=size)
        stated_mean, stated_std = assumed.mean, assumed.std
        channels = input_channels(model, size)
        # Values for another number of channels cannot be those of this network.
        if "mean" in stored and (len(spec.mean) == channels or len({*spec.mean}) == len({*spec.std}) == 1):
            return replace(spec, channels=channels), "as the file stores them"
        source = "as you passed"
        if stated_mean is None and stated_std is None:
            like = assumed.like
            if like is not None and like.channels == channels:
                stated_mean, stated_std, source = like.mean, like.std, "as the network of the run"
            elif "mean" in published and channels == len(published["mean"]):
                stated_mean, stated_std = published["mean"], published["std"]
                source = f"as timm publishes them{published['unused']}"
            else:
                source = ""
        mean, std = stated_mean or (_PLAIN[0],), stated_std or (_PLAIN[1],)
        return replace(
            spec, channels=channels, mean=per_channel(mean, channels), std=per_channel(std, channels)
        ), source
    except FieldError as error:
        raise UsageError(f"{error}; pass other values") from error


def images_of(spec: ModelSpec) -> str:
    """Return the preprocessing of a spec as words, such as `images of 224 x 224 pixels, mean 0.5, std 0.5`."""
    size = " x ".join(map(str, spec.input_size))
    channels = {COLOURS: "", 1: " and 1 channel"}.get(spec.channels, f" and {spec.channels} channels")
    # One value is enough where all channels have the same.
    mean, std = (
        ", ".join(f"{value:.4g}" for value in (values if len(set(values)) > 1 else values[:1]))
        for values in (spec.mean, spec.std)
    )
    return f"images of {size} pixels{channels}, mean {mean}, std {std}"


def normalises_itself(model: nn.Module, channels: int) -> str | None:
    """Return the name of what normalises the images inside a network, or None.

    That is a buffer such as `mean` or `pixel_mean` with one value for each channel of the images, or torchvision's
    `Normalize` or the transform of its detectors.
    """
    for name, module in model.named_modules():
        if type(module).__name__ in ("Normalize", "Normalization", "GeneralizedRCNNTransform"):
            return str(name)
        if isinstance(module, _BatchNorm):
            continue
        values = {**dict(module.named_buffers(recurse=False)), **dict(module.named_parameters(recurse=False))}
        for own_name, value in values.items():
            if _NORMALISING.fullmatch(own_name.lower()) and value.numel() in (1, channels):
                return f"{name}.{own_name}" if name else own_name
    return None


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one value for each channel; one value is that of all channels.

    Raises:
        UsageError: there are several values, but not one for each channel.
    """
    if len(values) not in (1, channels):
        takes, some = ("1 channel", "1") if channels == 1 else (f"{channels} channels", f"1 or {channels}")
        example = (
            f", such as their mean, {sum(values) / len(values):.3g}, instead of --normalise" if channels == 1 else ""
        )
        raise UsageError(
            f"mean or std has {len(values)} values but the network takes {takes}; pass {some} with --mean and --std"
            f"{example}"
        )
    return tuple(values) * (channels // len(values)) if len(values) == 1 else tuple(values)


def _published(model: nn.Module) -> dict[str, Any]:
    """Return the preprocessing that timm publishes for a network of timm; empty for another network."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, dict):
        return {}
    facts: dict[str, Any] = {}
    size = config.get("input_size")
    if isinstance(size, tuple | list) and len(size) == 3:
        facts["input_size"] = (int(size[1]), int(size[2]))
    mean, std = config.get("mean"), config.get("std")
    if isinstance(mean, tuple | list) and isinstance(std, tuple | list) and len(mean) == len(std):
        facts |= {"mean": tuple(map(float, mean)), "std": tuple(map(float, std)), "unused": _unused(config)}
    return facts


def _unused(config: Mapping[str, Any]) -> str:
    """Return words about the crop and the interpolation that timm publishes, which `cfp` does not use."""
    crop, filter_name = config.get("crop_pct"), config.get("interpolation")
    parts = [f"crop of {crop:g}"] if isinstance(crop, int | float) and crop != 1 else []
    if isinstance(filter_name, str) and filter_name != "bilinear":
        parts.append(f"{filter_name} interpolation")
    if not parts:
        return ""
    verb = "are" if len(parts) > 1 else "is"
    return f"; its {' and '.join(parts)} {verb} not used: cfp resizes the complete image with a bilinear filter"
