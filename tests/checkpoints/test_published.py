"""The preprocessing that timm publishes with a network: what is used, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from cfp_cli.checkpoints.preprocessing import Assumed, complete, images_of
from cfp_cli.checkpoints.spec import ModelSpec

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "input_size": (3, 24, 32)}


def completed(config: dict[str, Any], channels: int = 3, **given: Any) -> tuple[ModelSpec, str]:
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.pretrained_cfg = config  # type: ignore[assignment]
    return complete(ModelSpec("timm:x", ("a", "b", "c", "d")), model, Assumed(**given), ())


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ({}, ""),
        ({"crop_pct": 1.0, "interpolation": "bilinear"}, ""),
        ({"crop_pct": 0.875, "interpolation": "bicubic"}, "its crop of 0.875 and bicubic interpolation are not used"),
        ({"crop_pct": 0.95}, "its crop of 0.95 is not used"),
        ({"interpolation": "bicubic", "crop_pct": None}, "its bicubic interpolation is not used"),
        ({"interpolation": 3, "crop_pct": "x"}, ""),
    ],
)
def test_crop_and_interpolation_are_said(rest: dict[str, Any], words: str) -> None:
    spec, source = completed({**IMAGENET, **rest})
    assert (spec.mean, spec.std, spec.input_size) == (IMAGENET["mean"], IMAGENET["std"], (24, 32))
    assert source.startswith("as timm publishes them")
    assert words in source
    assert ("not used" in source) == bool(words)


def test_what_the_user_states_comes_first() -> None:
    spec, source = completed({**IMAGENET, "crop_pct": 0.5}, mean=(0.5,), std=(0.5,), input_size=(16, 16))
    assert (spec.mean, spec.std, spec.input_size) == ((0.5,) * 3, (0.5,) * 3, (16, 16))
    assert source == "as you passed"


def test_figures_of_colours_are_not_those_of_grey_images() -> None:
    spec, source = completed(IMAGENET, channels=1)
    assert (spec.channels, spec.mean, spec.std, source) == (1, (0.0,), (1.0,), "")
    assert "1 channel," in images_of(spec)


@pytest.mark.parametrize(
    "config", [{"mean": "x", "std": "y"}, {"mean": (0.5,), "std": (0.5, 0.5)}, {"input_size": 224}]
)
def test_other_forms_are_ignored(config: dict[str, Any]) -> None:
    spec, source = completed(config)
    assert (spec.mean, spec.input_size, source) == ((0.0,) * 3, (224, 224), "")
