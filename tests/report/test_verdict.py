"""The verdict, the worst mistakes and the plain text of the page."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.measuring.intervals import Interval, paired_difference
from cfp_cli.measuring.latency import Latency
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.report.lineage import entry_facts
from cfp_cli.report.page_data import ModelFacts
from cfp_cli.report.text import date, plain
from cfp_cli.report.verdict import give_verdict

NAMES = ("pits", "scratch")


def metrics(right: int, wrong: int, *, one_class: bool = False) -> Metrics:
    labels = torch.tensor([0, 1] * ((right + wrong) // 2))
    predictions = labels.clone()
    predictions[:wrong] = 1 - predictions[:wrong]
    return compute_metrics(torch.ones_like(labels) if one_class else predictions, labels, NAMES)


def facts(role: str, measured: Metrics | None, params: int = 1000) -> ModelFacts:
    return ModelFacts(role, f"{role}.pt", "0" * 64, params, 50_000 * params, 4 * params, "float32", measured)


ORIGINAL = facts("original", metrics(98, 2))


@pytest.mark.parametrize(
    ("final", "change", "words", "bad"),
    [
        (metrics(97, 3), paired_difference(96, 2, 1, 1), "No loss of accuracy can be shown. With 100", False),
        (metrics(80, 20), paired_difference(80, 18, 0, 2), "less accurate than the original", True),
        (metrics(100, 0), Interval(0.001, 0.05), "more accurate than the original", False),
        (metrics(50, 50, one_class=True), Interval(-0.6, -0.4), "it names 'scratch' for 100 of 100", True),
        (None, None, "was not measured", False),
        (metrics(97, 3), None, "not compared", False),
    ],
)
def test_the_headline_says_what_the_figures_show(final, change, words: str, bad: bool) -> None:
    original = ORIGINAL if final else replace(ORIGINAL, metrics=None)
    verdict = give_verdict(original, facts("fine-tuned", final, 25), change, ())
    assert words in verdict.headline
    assert verdict.bad == bad
    assert "40.0× fewer parameters" in verdict.facts[0]
    text = " ".join(verdict.facts)
    assert ("Worst class: " in text) == ("Macro-F1: " in text) == (final is not None)
    if final is not None and change is not None:
        assert re.search(r"95 % interval [+−±][\d.]+ to [+−±][\d.]+", text)


def test_before_pruning_only_the_original_is_judged() -> None:
    verdict = give_verdict(ORIGINAL, None, None, ())
    assert "not pruned yet" in verdict.headline
    assert "change" not in " ".join(verdict.facts)


def test_plain_data_are_shown_without_json() -> None:
    value = {"ratio": 0.95, "keep": ["a.*", "b"], "rates": None, "rounds": 2, "dry_run": False, "nested": {"x": [0.1]}}
    shown = plain(value)
    assert shown == "ratio: 0.95; keep: a.*, b; rates: none; rounds: 2; dry run: no; nested: x: 0.1"
    assert not set('{}[]"') & set(shown)
    assert plain([]) == plain({}) == "none"


def test_dates_are_for_people() -> None:
    assert date("2026-03-03T15:05:59+01:00") == "3 March 2026, 14:05 UTC"
    assert date("yesterday") == "yesterday"


def test_the_difference_of_equal_networks_has_an_interval_around_zero() -> None:
    low, high = paired_difference(40, 0, 0, 2)
    assert low < 0 < high
    assert np.isclose(low, -high)


def test_the_types_of_both_files_are_said() -> None:
    half = replace(ORIGINAL, stored="float16", bytes=ORIGINAL.bytes // 2)
    final = facts("fine-tuned", metrics(97, 3), 25)
    assert "(float16 before, float32 now)" in give_verdict(half, final, None, ()).facts[0]
    assert "(both float32)" in give_verdict(ORIGINAL, final, None, ()).facts[0]


def test_the_headline_names_the_worst_class_and_the_facts_the_largest_loss() -> None:
    final = facts("fine-tuned", metrics(97, 3), 25)
    verdict = give_verdict(ORIGINAL, final, None, (), repeated=2)
    assert f"Worst class: {final.metrics.worst_class.name}, recall" in verdict.headline
    assert "2 test images have the content of a training or validation image" in verdict.facts[-1]


def test_a_lineage_is_in_words() -> None:
    entry = {"stage": "prune", "from": "ab", "compression": 20.0058, "achieved": 0.950014, "teacher_1": "cd"}
    assert entry_facts(entry) == [
        ("made from the file with SHA-256", "ab"),
        ("parameters", "20.0 times fewer"),
        ("removed", "95.0\N{NO-BREAK SPACE}%"),
    ]


@pytest.mark.parametrize(
    ("runtimes", "chosen"),
    [
        (("torch",), "torch"),
        (("torch", "openvino"), "openvino"),
        (("torch", "onnxruntime", "openvino"), "onnxruntime"),
    ],
)
def test_the_speed_is_of_a_runtime_that_does_not_depend_on_the_times(runtimes: tuple[str, ...], chosen: str) -> None:
    final = facts("fine-tuned", metrics(97, 3), 25)
    for fastest in runtimes:
        times = {runtime: 1.0 if runtime == fastest else 3.0 for runtime in runtimes}
        timed = [
            Benchmark(
                name,
                10,
                100,
                40,
                (8, 8),
                tuple(
                    Latency(1, 2, speed * factor, speed * factor, speed * factor, 9, runtime, "contiguous", "cpu")
                    for runtime, factor in times.items()
                ),
            )
            for name, speed in (("original", 8.0), ("fine-tuned", 2.0))
        ]
        fact = next(each for each in give_verdict(ORIGINAL, final, None, timed).facts if each.startswith("Speed"))
        assert f"({chosen}, batch 1" in fact
        assert "4.0× faster" in fact
        assert ("of the measured runtimes, the first of onnxruntime, openvino, torch" in fact) == (len(runtimes) > 1)
