"""`cfp bench` names a network that is slower although it has fewer multiply-adds."""

from __future__ import annotations

import pytest

from cfp_cli.commands.bench import slower_verdicts
from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.measuring.latency import Latency


def timed(model: str, macs: int, median: float, batch: int = 1, noise: float = 0.0) -> Benchmark:
    latency = Latency(batch, 1, median, median - noise, median + noise, 3, "onnxruntime", "contiguous", "cpu")
    return Benchmark(model=model, params=10, macs=macs, bytes=40, input_size=(3, 8, 8), latency_ms=(latency,))


@pytest.mark.parametrize(
    ("small", "said"),
    [
        (timed("small.pt", 50, 2.0), True),
        (timed("small.pt", 50, 0.5), False),
        (timed("small.pt", 50, 2.0, noise=0.9), True),
        (timed("small.pt", 50, 2.0, noise=1.1), False),  # the quartiles overlap
        (timed("small.pt", 50, 1.01), False),  # the noise of a machine
        (timed("small.pt", 200, 2.0), False),  # a larger network may be slower
        (timed("small.pt", 50, 2.0, batch=64), False),  # the first has no time for this batch
    ],
)
def test_a_slower_small_network(small: Benchmark, said: bool) -> None:
    lines = slower_verdicts([timed("rl.pt", 100, 1.0), small])
    assert len(lines) == said
    assert all("small.pt" in line and "onnxruntime (batch 1)" in line and "--round-to 8" in line for line in lines)
