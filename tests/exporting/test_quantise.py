"""The int8 file is close to the network where one way to quantise is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxruntime")

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.exporting import onnx_file
from cfp_cli.exporting.export import export
from cfp_cli.exporting.quantise import quantise
from cfp_cli.foundation.errors import CfpError

SIZE = (8, 8)


def network(*layers: nn.Module) -> nn.Module:
    """A network that ends in the mean of its maps."""
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return describe(body, ModelSpec("own", ("a", "b"), input_size=SIZE))


def relative_error(model: nn.Module, images: Tensor, path: Path) -> float:
    """Norm of the error of the logits of the int8 file, relative to the norm of the logits."""
    labels = torch.zeros(len(images), dtype=torch.long)
    export(model, path, samples=images, int8=True, calibration=images, evaluation=[(images, labels)])
    with torch.no_grad():
        expected = model(images)
    return float((onnx_file.runner(path)(images) - expected).norm() / expected.norm())


def test_products_of_large_weights_do_not_saturate(tmp_path: Path) -> None:
    # Each pair of products is 2 * 255 * 127, more than 16 bits hold. Processors without VNNI clip it.
    first, last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 2, 3, padding=1)
    for layer in (first, last):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    images = 0.95 + 0.05 * torch.rand(32, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    assert relative_error(network(first, nn.ReLU(), last), images, tmp_path / "net.onnx") < 0.02


def test_one_bright_pixel_does_not_coarsen_the_rest(tmp_path: Path) -> None:
    # The activation clips the pixel, so it hardly changes the logits of its image. All other pixels are below 1.
    pointwise, last = nn.Conv2d(3, 16, 1, bias=False), nn.Conv2d(16, 2, 1, bias=False)
    torch.manual_seed(0)
    nn.init.uniform_(pointwise.weight, 0.2, 0.4)
    images = torch.rand(256, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    images[0, :, 0, 0] = 200.0
    assert relative_error(network(pointwise, nn.ReLU6(), last), images, tmp_path / "net.onnx") < 0.03


@pytest.mark.parametrize("broken", [0, 3])
def test_a_file_with_nan_logits_is_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    model = network(nn.Conv2d(3, 2, 3))
    images = torch.rand(16, 3, *SIZE)
    turns = iter(range(4))

    def runner(content: bytes) -> Callable[[Tensor], Tensor]:
        return (lambda batch: model(batch) * torch.nan) if next(turns) == broken else onnx_file.runner(content)

    monkeypatch.setattr("cfp_cli.exporting.quantise.runner", runner)
    content = onnx_file.to_bytes(model, images, {})
    kept, _ = quantise(model, content, images, {})
    assert onnx_file.runner(kept)(images).isfinite().all()


def test_if_all_files_have_nan_logits_the_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(nn.Conv2d(3, 2, 3))
    images = torch.rand(16, 3, *SIZE)
    monkeypatch.setattr("cfp_cli.exporting.quantise.runner", lambda _: lambda batch: model(batch) * torch.nan)
    with pytest.raises(CfpError, match=r"NaN or infinite.*without --int8"):
        quantise(model, onnx_file.to_bytes(model, images, {}), images, {})
