from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from cfp_cli.measuring.latency import measure_latency, summarise, time_in_turns


class Sleeper(nn.Module):
    """A network that takes a known time for each image."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.seconds = milliseconds / 1000
        self.linear = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        time.sleep(self.seconds * len(images))
        return self.linear(images.mean((2, 3)))


def small(classes: int = 4) -> nn.Module:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=4),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def test_times_are_those_of_the_clock() -> None:
    models = {"slow": Sleeper(4).train(), "fast": Sleeper(1).train()}
    found = measure_latency(models, (3, 8, 8), batches=(1, 3), seconds=0.05)
    assert {name: [each.batch for each in times] for name, times in found.items()} == {"slow": [1, 3], "fast": [1, 3]}
    for name, milliseconds in {"slow": 4, "fast": 1}.items():
        for each in found[name]:
            assert milliseconds * each.batch <= each.p25 <= each.median <= each.p75
            assert each.passes >= 10
            # Sleeping longer than asked is the machine's doing; ten times longer would be ours.
            assert each.median < 10 * milliseconds * each.batch
    assert all(model.training for model in models.values())


def test_networks_and_torch_stay_as_they_are() -> None:
    model = small().train()
    before, threads = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_num_threads()
    found = measure_latency({"a": model}, (3, 12, 16), batches=(2,), threads=1, seconds=0.01, memory="channels-last")[
        "a"
    ][0]
    assert (found.threads, found.memory, found.runtime, found.device) == (1, "channels-last", "torch", "cpu")
    assert model.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.is_contiguous()


def test_calls_are_made_in_turns_that_begin_untimed() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        # The first call after another network's pays for the caches that the other has filled.
        time.sleep(0.01 if order[-1:] == [name] else 0.05)
        order.append(name)

    times = time_in_turns({name: lambda name=name: call(name) for name in "ab"}, seconds=0.1)  # type: ignore[misc]
    assert len(times["a"]) == len(times["b"]) == 10
    assert order[-30:] == ["a", "a", "a", "b", "b", "b"] * 5
    # Ten would be slow if the first calls were timed; a busy machine may add one or two.
    assert sum(each > 0.045 for each in times["a"] + times["b"]) < 5


def test_summary_is_in_milliseconds() -> None:
    found = summarise([0.001, 0.002, 0.003, 0.004, 0.005], 7, 2, "torch")
    assert (found.p25, found.median, found.p75, found.passes) == (
        pytest.approx(2),
        pytest.approx(3),
        pytest.approx(4),
        5,
    )
    assert set(found.to_json()) >= {"batch", "threads", "median", "p25", "p75"}
