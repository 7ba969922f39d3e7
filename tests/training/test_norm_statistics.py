from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import CLASSES, TensorViews, data, files, images, network
from torch import nn

from cfp_cli.measuring.metrics import evaluate
from cfp_cli.training.best_epoch import START
from cfp_cli.training.loop import fit
from cfp_cli.training.loss import CrossEntropy
from cfp_cli.training.norm_statistics import update_statistics
from cfp_cli.training.options import TrainOptions

OPTIONS = TrainOptions.preset("teacher", epochs=2, batch_size=16, augment="none")


def slow_norms(model: nn.Module) -> nn.Module:
    """The network with batch norms whose running statistics hardly move, as in networks with momentum 0.01."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1e-4
            module.running_mean.fill_(3.0)
            module.running_var.fill_(50.0)
    return model


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_is_saved_has_the_statistics_of_its_weights(tmp_path: Path, ema: float) -> None:
    model = slow_norms(network(norm=True))
    fit(
        model, data(), CrossEntropy(), TrainOptions.preset("teacher", epochs=2, batch_size=16, ema=ema), files(tmp_path)
    )
    pixels, _ = images()
    inputs: list[torch.Tensor] = []
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        model(pixels.flatten(0, 1))
    torch.testing.assert_close(norm.running_mean, inputs[0].mean((0, 2, 3)), rtol=0.1, atol=0.05)
    torch.testing.assert_close(norm.running_var, inputs[0].var((0, 2, 3)), rtol=0.15, atol=0.02)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_frozen_statistics_stay_and_normalise_while_the_weights_change(tmp_path: Path, ema: float) -> None:
    model = slow_norms(network(norm=True))
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes: list[bool] = []
    norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    options = TrainOptions.preset("teacher", epochs=2, batch_size=16, ema=ema, freeze_norm=True)
    fit(model, data(), CrossEntropy(), options, files(tmp_path))
    after = model.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        names = [each for each in after if each.endswith(name)]
        assert names
        assert all(torch.equal(after[each], before[each]) for each in names)
    weights = [each for each in after if each.endswith("weight")]
    assert not all(torch.equal(after[each], before[each]) for each in weights)
    assert modes
    assert not any(modes)


def test_the_estimate_depends_on_seed_and_epoch_alone() -> None:
    pixels, _ = images()
    found = []
    for start in (0, 1):
        model = network(norm=True)
        with torch.no_grad():
            for buffer in model.buffers():
                buffer.fill_(start)
        update_statistics(model, TensorViews(pixels), OPTIONS, 3)
        found.append({name: value for name, value in model.state_dict().items() if "running" in name})
    assert found[0]
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_network_without_batch_norm_is_not_run() -> None:
    class Unused:
        views = 1
        key = ""

        def __len__(self) -> int:
            raise AssertionError("the views are read")

    update_statistics(network(norm=False), Unused(), OPTIONS, 0)


def test_a_run_that_only_gets_worse_keeps_the_start(tmp_path: Path) -> None:
    good = network(norm=True)
    fit(
        good, data(), CrossEntropy(), TrainOptions.preset("teacher", epochs=15, batch_size=16, lr=0.02), files(tmp_path)
    )
    before = {name: value.clone() for name, value in good.state_dict().items()}
    accuracy = evaluate(good, data().validation, CLASSES).accuracy
    assert accuracy > 0.8
    wrecking = TrainOptions.preset("teacher", epochs=2, batch_size=16, lr=5.0, schedule="constant")
    history = fit(good, data(), CrossEntropy(), wrecking, files(tmp_path), keep_start=True)
    assert history.best_epoch == START
    assert history.val.accuracy == accuracy
    assert all(torch.equal(value, before[name]) for name, value in good.state_dict().items())
    assert torch.load(tmp_path / "best.pt", weights_only=True).keys() == before.keys()
