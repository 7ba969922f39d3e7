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
from cfp_cli.exporting.agreement import Runner
from cfp_cli.exporting.export import export
from cfp_cli.exporting.quantise import quantise
from cfp_cli.foundation.errors import CfpError, StorageError

SIZE = (8, 8)
WAYS = [f"onnxruntime, {ranges} ranges, {bits}-bit weights" for ranges in ("largest", "mean") for bits in (8, 7)]


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


def test_the_first_layer_is_not_coarsened_by_the_range_of_another_input_channel(tmp_path: Path) -> None:
    # Eight bits for all channels have steps of 4, and the other two channels are below 1.
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 1)
    with torch.no_grad():
        first.weight[:, :1] *= 1e-3
    images = torch.rand(64, 3, *SIZE) * torch.tensor([1000.0, 1.0, 1.0]).reshape(1, 3, 1, 1)
    model = network(first, nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3))
    assert relative_error(model, images, tmp_path / "net.onnx") < 0.03


def small() -> nn.Module:
    """A network whose int8 files are all close to it."""
    torch.manual_seed(0)
    return network(nn.Conv2d(3, 2, 3))


def small_file() -> bytes:
    """The ONNX file of `small`."""
    return onnx_file.to_bytes(small(), torch.rand(2, 3, *SIZE), {})


def fails(_: Tensor) -> Tensor:
    raise RuntimeError("unknown operator")


@pytest.mark.parametrize("broken", [0, 3])
@pytest.mark.parametrize("run", [fails, lambda images: torch.full((len(images), 2), torch.nan)])
def test_an_int8_file_that_does_not_work_is_never_kept(broken: int, run: Callable[[Tensor], Tensor]) -> None:
    images, turns = torch.rand(16, 3, *SIZE), iter(range(4))
    content = small_file()

    def runner(candidate: bytes) -> Runner:
        return run if next(turns) == broken else onnx_file.runner(candidate)

    kept = quantise(small(), content, images, {}, runner)
    assert onnx_file.runner(kept.content)(images).isfinite().all()
    assert kept.quantiser != WAYS[broken]


def test_if_no_int8_file_works_the_network_is_refused() -> None:
    images = torch.rand(16, 3, *SIZE)
    with pytest.raises(CfpError, match=r"unknown operator.*without --int8"):
        quantise(small(), small_file(), images, {}, lambda _: fails)


def test_a_file_that_cannot_be_prepared_is_refused() -> None:
    with pytest.raises(CfpError, match=r"cannot be quantised \(.+\); export it without --int8"):
        quantise(small(), b"no onnx file", torch.rand(16, 3, *SIZE), {})


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("cfp_cli.exporting.float_part.scratch_folder", full)
    images = torch.rand(16, 3, *SIZE)
    with pytest.raises(StorageError, match="the disk is full"):
        quantise(small(), small_file(), images, {})


def test_images_on_which_the_network_is_not_finite_are_refused() -> None:
    images = torch.rand(16, 3, *SIZE)
    images[3, 0, 0, 0] = torch.nan
    with pytest.raises(CfpError, match="NaN or infinite on training images"):
        quantise(small(), small_file(), images, {})


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_calibrate(count: int) -> None:
    images = torch.rand(count, 3, *SIZE)
    content = quantise(small(), small_file(), images, {}).content
    assert (onnx_file.runner(content)(images) - small()(images)).abs().max() < 0.05


def test_large_logits_are_compared() -> None:
    model = small()
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        model[0].weight *= 1e22
    images = torch.rand(16, 3, *SIZE)
    content = quantise(model, onnx_file.to_bytes(model, images, {}), images, {}).content
    assert onnx_file.runner(content)(images).isfinite().all()
