from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_nets import NETS, randomised
from torch import nn
from torch.fx import Node

from cfp_cli.execution.channels_last import faster_format
from cfp_cli.graph import TracedGraph, trace
from cfp_cli.graph.stream import Stream

BATCHES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(3)).split(2)


def _stops(traced: TracedGraph) -> list[Node | None]:
    return [*[node for node in traced.nodes if node.op == "call_function"][1::2], None]


@pytest.mark.parametrize("budget", [0, 40_000, 1 << 30])
@pytest.mark.parametrize("name", sorted(NETS)[::12])
@torch.no_grad()
def test_a_run_that_stops_computes_what_a_run_without_stops_computes(name: str, budget: int) -> None:
    model = randomised(NETS[name][0]()).eval()
    traced = trace(model, BATCHES[0][:1])
    stream = Stream(traced, BATCHES, budget)
    images = [batch.clone() for batch in BATCHES]
    for stop in _stops(traced):
        runs = [stream.advance(number, stop) for number in range(len(BATCHES))]
        assert stream.held <= budget
    for run, batch in zip(runs, images, strict=True):
        expected = traced.run(batch)
        assert all(torch.equal(run.values[node], value) for node, value in zip(traced.outputs, expected, strict=True))
    assert all(torch.equal(batch, image) for batch, image in zip(BATCHES, images, strict=True))


@pytest.mark.parametrize("name", sorted(NETS)[::5])
@torch.no_grad()
def test_a_traced_network_computes_the_same_in_its_faster_format(name: str) -> None:
    traced = trace(randomised(NETS[name][0]()).eval(), BATCHES[0][:1])
    memory_format = faster_format(
        traced.model, BATCHES[0], lambda model, images: replace(traced, model=model).run(images)
    )
    run = Stream(traced, BATCHES, 0, memory_format).advance(0, None)
    for node, expected in zip(traced.outputs, traced.run(BATCHES[0]), strict=True):
        torch.testing.assert_close(run.values[node], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_network_reads_images_in_the_memory_format_of_the_stream() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), BATCHES[0][:1])
    seen = []

    def on_value(node: Node, value: torch.Tensor) -> None:
        if "conv2d" in node.name:
            seen.append(value.is_contiguous(memory_format=torch.channels_last))

    for memory_format in (torch.channels_last, torch.contiguous_format):
        Stream(traced, BATCHES, 0, memory_format).advance(0, None, on_value)
    assert seen == [True, False]
    assert BATCHES[0].is_contiguous()


@torch.no_grad()
def test_a_node_runs_again_only_if_its_values_do_not_fit_the_budget() -> None:
    layers = [module for _ in range(5) for module in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True))]
    traced = trace(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval(), BATCHES[0])
    stops = [node for node in traced.nodes if "conv2d" in node.name]
    one = BATCHES[0].nbytes

    def runs(budget: int) -> list[int]:
        counts: dict[str, int] = {}

        def count(node: Node, _: torch.Tensor) -> None:
            counts[node.name] = counts.get(node.name, 0) + 1

        stream = Stream(traced, BATCHES, budget)
        for stop in [*stops, None]:
            for number in range(len(BATCHES)):
                stream.advance(number, stop, count)
        return [counts[node.name] for node in stops]

    assert runs(3 * one) == [3] * 5
    # Of three batches, two start again at each of the six stops.
    assert runs(one) == [1 + 2 * 5, 1 + 2 * 4, 1 + 2 * 3, 1 + 2 * 2, 3]
    assert runs(0) == [15, 12, 9, 6, 3]


def test_views_of_a_value_are_counted_once() -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = (x * 2).chunk(2, 2)
            return (first.sigmoid() + second).mean((2, 3))

    traced = trace(Halves(), BATCHES[0])
    stop = next(node for node in traced.nodes if "sigmoid" in node.name)
    assert Stream(traced, BATCHES, 1 << 30).advance(0, stop).held == BATCHES[0].nbytes
