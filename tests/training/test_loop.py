from __future__ import annotations

import copy
import math
import os
import signal

import pytest
import torch
from tiny_run import CLASSES, TensorViews, data, files, network, same
from torch import nn
from torch.nn import functional

from cfp_cli.foundation.errors import TrainingError, UsageError
from cfp_cli.measuring.metrics import evaluate
from cfp_cli.training.ema import Ema
from cfp_cli.training.history import read_csv
from cfp_cli.training.loop import TrainingData, fit
from cfp_cli.training.loss import CrossEntropy
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.precision import autocast_dtype

OPTIONS = TrainOptions.preset("paper", epochs=4, batch_size=16, lr=1e-2, seed=3)


def run(tmp_path, options=OPTIONS, model=None, **arguments):
    model = network() if model is None else model
    history = fit(model, data(), CrossEntropy(), options, files(tmp_path, 1e9), **arguments)
    return model, history


class StopAfter:
    """A progress object that sends this process a signal after some steps."""

    def __init__(self, steps: int, number: int = signal.SIGINT) -> None:
        self.steps, self.number = steps, number

    def track(self, items, description, total=None, unit="batch"):
        for index, item in enumerate(items):
            yield item
            if index + 1 == self.steps:
                os.kill(os.getpid(), self.number)

    def say(self, message: str) -> None:
        pass


def test_learns_and_keeps_the_best_epoch(tmp_path):
    model, history = run(tmp_path, TrainOptions.preset("paper", epochs=30, batch_size=16, lr=1e-2))
    assert len(history.rows) == 30
    assert history.val.accuracy > 0.9
    best = max(row.accuracy for row in history.rows)
    assert history.rows[history.best_epoch].accuracy == history.val.accuracy
    images = history.val.images
    share = (best * images + 1) / (images + 2)
    error = math.sqrt(2 * share * (1 - share) / images)
    assert history.best_epoch == max(row.epoch for row in history.rows if row.accuracy >= best - error)
    assert same(model.state_dict(), torch.load(tmp_path / "best.pt", weights_only=True))
    assert evaluate(model, data().validation, CLASSES) == history.val


class Versioned(nn.Conv2d):
    """A layer that can only be loaded with its version."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *arguments):
        assert local_metadata.get("version") == 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)


def test_layers_that_ask_for_their_version_are_trained(tmp_path):
    model = network()
    model[3] = Versioned(6, 8, 3, padding=1)
    run(tmp_path, TrainOptions.preset("paper", epochs=1, batch_size=16), model)


def test_one_step_is_the_plain_adam_step(tmp_path):
    options = TrainOptions.preset("paper", epochs=1, batch_size=64, lr=1e-2, schedule="constant")
    start = network(dropout=0.0)
    expected = copy.deepcopy(start).train()
    model, _ = run(tmp_path, options, start)
    source = data()
    order = torch.from_numpy(source.sampler.epoch(0))
    batch = torch.stack([source.views.pixels[i, v] for i, v in _first_views(source, order, options.seed)])
    optimizer = torch.optim.Adam(expected.parameters(), 1e-2, weight_decay=5e-4)
    functional.cross_entropy(expected(batch), source.labels[order]).backward()
    optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=2e-4, atol=2e-6)


def _first_views(source, order, seed):
    from cfp_cli.training.batch_plan import BatchPlan

    images, views, whole = BatchPlan(source.sampler, source.views, 64, seed).batch(0, 0)
    assert whole == len(images)
    assert images.tolist() == order.tolist()
    return zip(images.tolist(), views.tolist(), strict=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9},
        {"optimizer": "sgd"},
        {"optimizer": "adamw", "clip_norm": 0.5},
        {"amp": "bf16"},
        {"amp": "fp16"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "plain",
)
@pytest.mark.parametrize("steps", [1, 3, 7, 12])
def test_interrupted_run_goes_on_bit_for_bit(tmp_path, changes, steps):
    options = TrainOptions(**{**OPTIONS.to_json(), **changes})
    try:
        whole, history = run(tmp_path / "whole", options)
    except TrainingError as error:
        pytest.skip(str(error))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", options, progress=StopAfter(steps, signal.SIGTERM if steps % 2 else signal.SIGINT))
    resumed, second = run(tmp_path / "cut", options, resume=True)
    assert same(whole.state_dict(), resumed.state_dict())
    assert second.best_epoch == history.best_epoch
    assert [row.loss for row in second.rows] == [row.loss for row in history.rows]
    last = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "cut")]
    assert same(last[0]["model"], last[1]["model"])


def test_dropout_makes_steps_differ_but_runs_equal(tmp_path):
    first, _ = run(tmp_path / "a")
    torch.manual_seed(99)
    second, _ = run(tmp_path / "b")
    assert same(first.state_dict(), second.state_dict())
    third, _ = run(tmp_path / "c", TrainOptions(**{**OPTIONS.to_json(), "seed": 4}))
    assert not same(first.state_dict(), third.state_dict())


def test_leaves_the_random_state_and_signal_handlers_alone(tmp_path):
    torch.manual_seed(5)
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGTERM)
    run(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert signal.getsignal(signal.SIGTERM) is handler


def test_finished_run_is_not_run_again(tmp_path):
    model, history = run(tmp_path)
    again, second = run(tmp_path, model=network(seed=7), resume=True, progress=StopAfter(1))
    assert same(model.state_dict(), again.state_dict())
    assert second.rows == history.rows


def test_new_run_does_not_take_up_an_old_state(tmp_path):
    run(tmp_path)
    with pytest.raises(TrainingError, match="a logit became NaN or infinite in epoch 1; no good state had"):
        run(
            tmp_path,
            TrainOptions.preset("paper", epochs=2, lr=1e30, schedule="constant", optimizer="sgd"),
            network(norm=False),
        )
    assert not (tmp_path / "last.pt").exists()


def test_resume_refuses_another_run(tmp_path):
    run(tmp_path, identity={"model": "abc"})
    with pytest.raises(TrainingError, match=r"lr was 0\.01, now 0\.02"):
        run(tmp_path, TrainOptions(**{**OPTIONS.to_json(), "lr": 0.02}), identity={"model": "abc"}, resume=True)
    with pytest.raises(TrainingError, match="model was abc, now xyz"):
        run(tmp_path, identity={"model": "xyz"}, resume=True)


def test_resume_refuses_a_broken_state(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match="not a training state; delete it"):
        run(tmp_path, resume=True)


def test_nan_stops_and_names_the_last_good_state(tmp_path):
    class Poison(TensorViews):
        asked = 0

        def get(self, indices, views):
            self.asked += 1
            # One call for the trial of the memory format, three for the first epoch, two for its statistics.
            return super().get(indices, views) * (math.nan if self.asked == 8 else 1)

    source = data()
    poisoned = TrainingData(Poison(source.views.pixels), source.labels, source.sampler, source.validation, CLASSES)
    with pytest.raises(
        TrainingError, match=r"loss became NaN or infinite in epoch 2; the last good state is .*last\.pt"
    ):
        fit(network(), poisoned, CrossEntropy(), OPTIONS, files(tmp_path, 0))
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    assert (state["epoch"], state["step"]) == (1, 1)


def test_exploding_weights_stop_the_run(tmp_path):
    options = TrainOptions.preset("paper", epochs=3, batch_size=16, lr=1e30, schedule="constant", optimizer="sgd")
    with pytest.raises(TrainingError, match="became NaN or infinite in epoch 1; no good state had been written"):
        run(tmp_path, options, network(norm=False))


def test_compiled_network_learns_the_same(tmp_path, monkeypatch):
    import functools

    # This backend needs no compiler. The saved network must still be the original one.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, _ = run(tmp_path / "plain", model=network(dropout=0.0))
    options = TrainOptions(**{**OPTIONS.to_json(), "compile": True})
    compiled, _ = run(tmp_path / "compiled", options, network(dropout=0.0))
    assert same(plain.state_dict(), compiled.state_dict())


def test_amp_is_refused_where_the_hardware_lacks_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(TrainingError, match="this cpu does not compute in bf16; pass --amp off"):
        run(tmp_path, TrainOptions.preset("paper", amp="bf16"))
    assert autocast_dtype("auto", torch.device("cpu")) is None


def test_patience_stops_early(tmp_path):
    options = TrainOptions.preset("paper", epochs=50, batch_size=16, lr=1e-12, min_lr=0, patience=3)
    _, history = run(tmp_path, options, network(dropout=0.0, norm=False))
    assert len(history.rows) == 4
    assert history.best_epoch == 3


def test_ema_keeps_the_running_mean(tmp_path):
    options = TrainOptions(**{**OPTIONS.to_json(), "epochs": 1, "batch_size": 64, "ema": 0.5, "schedule": "constant"})
    start = network()
    plain, _ = run(tmp_path / "plain", TrainOptions(**{**options.to_json(), "ema": 0.0}), copy.deepcopy(start))
    averaged, _ = run(tmp_path / "ema", options, copy.deepcopy(start))
    # There is one update, the first, whose decay is min(.5, 1/10).
    # Statistics of batch norm are those of the averaged weights, see test_norm_statistics.py.
    for name, value in averaged.state_dict().items():
        if value.is_floating_point() and "running" not in name:
            torch.testing.assert_close(value, 0.1 * start.state_dict()[name] + 0.9 * plain.state_dict()[name])


def test_clipping_limits_the_step(tmp_path):
    options = {
        "epochs": 1,
        "batch_size": 64,
        "lr": 1.0,
        "optimizer": "sgd",
        "weight_decay": 0.0,
        "schedule": "constant",
    }
    start = network()
    model, _ = run(tmp_path, TrainOptions.preset("paper", **options, clip_norm=0.01), copy.deepcopy(start))
    before = dict(start.named_parameters())
    moved = math.sqrt(
        sum(float((value - before[name]).detach().square().sum()) for name, value in model.named_parameters())
    )
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_select_by_macro_f1(tmp_path):
    _, history = run(tmp_path, TrainOptions(**{**OPTIONS.to_json(), "select": "macro_f1"}))
    kept = history.rows[history.best_epoch]
    error = history.val.standard_error("macro_f1")
    assert kept.macro_f1 == history.val.macro_f1 >= max(row.macro_f1 for row in history.rows) - 3 * error


def test_history_file_holds_the_rows(tmp_path):
    _, history = run(tmp_path)
    assert read_csv(tmp_path / "history.csv") == history.rows


def test_subnormals_are_not_kept(tmp_path):
    start = network()
    with torch.no_grad():
        start[3].weight.requires_grad_(False)[0] = 1e-40
    model, _ = run(
        tmp_path, TrainOptions.preset("paper", epochs=1, batch_size=16, lr=1e-30, min_lr=0, weight_decay=0.0), start
    )
    assert model[3].weight[0].abs().max() == 0
    assert torch.load(tmp_path / "best.pt", weights_only=True)["3.weight"][0].abs().max() == 0


def test_batch_too_small_for_the_processes():
    from cfp_cli.training.batch_plan import BatchPlan

    assert BatchPlan(data().sampler, data().views, 3, 0, world_size=2).steps_per_epoch == 11
    with pytest.raises(UsageError, match="3 training images are too few for 2 processes"):
        BatchPlan(data().sampler, data(3).views, 3, 0, world_size=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; pass 1 or more"),
        ({"lr": 0.0}, "--lr is 0; pass a number above 0"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0; pass a number that is not negative"),
        ({"schedule": "step"}, "--schedule is 'step'; pass one of cosine, linear, constant"),
        ({"ema": 1.0}, "--ema is 1.0; pass a decay"),
    ],
)
def test_options_are_checked_first(changes, message):
    with pytest.raises(UsageError) as caught:
        TrainOptions.preset("paper", **changes)
    assert str(caught.value).startswith(message)


def test_learning_rate_schedules():
    cosine = TrainOptions.preset("paper", epochs=100, lr=1e-3, min_lr=1e-5)
    assert cosine.learning_rate(0, 1) == 1e-3
    assert cosine.learning_rate(50, 1) == pytest.approx((1e-3 + 1e-5) / 2)
    assert cosine.learning_rate(100, 1) == pytest.approx(1e-5)
    linear = TrainOptions.preset("paper", epochs=100, lr=1e-3, min_lr=1e-5, schedule="linear")
    assert linear.learning_rate(25, 1) == pytest.approx(1e-3 - 0.25 * (1e-3 - 1e-5))
    assert TrainOptions.preset("paper", epochs=9, lr=1e-3, schedule="constant").learning_rate(8, 1) == 1e-3
    # Steps within an epoch continue the curve.
    assert cosine.learning_rate(500, 10) == cosine.learning_rate(50, 1)
    assert cosine.learning_rate(505, 10) < cosine.learning_rate(500, 10)
    warmed = TrainOptions.preset("paper", epochs=9, lr=1e-3, schedule="constant", warmup=0.5)
    assert [warmed.learning_rate(step, 8) for step in range(5)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, 1e-5)
    for epoch in range(100):
        assert cosine.learning_rate(epoch, 1) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_the_running_mean_takes_a_shared_weight_once():
    shared = nn.Linear(1, 1, bias=False)
    network = nn.Sequential(shared, shared, nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    mean = Ema(network, 0.9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1)
    mean.update(network, 1000)
    assert [parameter.item() for parameter in mean.model.parameters()] == pytest.approx([0.1, 0.1])
