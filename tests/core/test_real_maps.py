"""Ranks of the feature maps of a trained network on real images of steel, against float64 singular values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from core_oracles import margin, rank
from PIL import Image
from torch import nn

import cfp_core
from cfp_cli.checkpoints.load import load


@pytest.mark.shared_data
def test_ranks_of_a_trained_vgg16_equal_float64(shared: Path) -> None:
    """Every fourth channel of every ReLU at 224 pixels, rounded to 4 decimals as the paper does."""
    images = sorted((shared / "data/neu-cls/test").rglob("*.*"))
    teacher = shared / "teachers/vgg16_neu-cls_rl.pt"
    if not images or not teacher.is_file():
        pytest.skip("no NEU-CLS images or no VGG-16 teacher")
    model = load(teacher, "vgg16_bn_gap")
    with Image.open(images[len(images) // 2]) as file:
        grey = np.asarray(file.convert("RGB").resize((224, 224)), np.float32) / 255
    batch = torch.from_numpy((grey - 0.45) / 0.22).permute(2, 0, 1)[None].contiguous()
    found: list[tuple[tuple[int, ...], int, int]] = []

    def compare(_module: nn.Module, _inputs: object, maps: torch.Tensor) -> None:
        if maps.dim() == 4:
            rounded = maps[:, ::4].numpy().round(4)
            clear = margin(rounded) > 1e-3
            differing = cfp_core.matrix_rank(rounded) != rank(rounded)
            found.append((rounded.shape, int(differing.sum()), int((differing & clear).sum())))

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(compare)
    with torch.inference_mode():
        model(batch)
    assert len(found) == 13
    assert sum(wrong for *_, wrong in found) == 0, found
    assert sum(differing for _, differing, _ in found) <= 1, found
