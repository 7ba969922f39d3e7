from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.exporting.export import ExportReport
from cfp_cli.foundation.content_hash import KEY
from cfp_cli.foundation.errors import RunError
from cfp_cli.measuring.latency import Latency
from cfp_cli.measuring.metrics import ClassMetrics, Metrics
from cfp_cli.runs.directory import Run
from cfp_cli.runs.records import (
    BenchMetrics,
    BenchRecord,
    DataRecord,
    ExportRecord,
    FinetuneMetrics,
    FinetuneRecord,
    Inputs,
    ModelRecord,
    OutputFile,
    PruneMetrics,
    PruneRecord,
    Record,
    ReportMetrics,
    ReportRecord,
    ScoreMetrics,
    ScoreRecord,
)

HASH = "0123456789abcdef" * 4
MODEL = ModelRecord(Path("/model.pt"), HASH, "vgg16_bn_gap", (64, 48), unsafe_pickle=True)
DATA = DataRecord(Path("/data"), HASH, 3, 0.15, 0.01)
METRICS = Metrics(
    0.9, 0.8, 0.7, 0.6, 0.5, {name: ClassMetrics(0.9, 0.8, 0.7, 3, 3) for name in ("a", "b")}, ((2, 1), (0, 3)), 6
)
LATENCY = Latency(1, 2, 3.5, 3.0, 4.0, 10, "torch", "contiguous", "cpu")
COMMON: dict[str, Any] = {
    "arguments": {"ratio": 0.5, "keep": ["a", "b"], "rates": None},
    "seed": 3,
    "inputs": Inputs(model=MODEL, data=DATA, teachers=(MODEL, MODEL)),
    "outputs": {name: OutputFile(Path(f"/run/{name}.pt"), HASH) for name in ("pruned", "finetuned")},
    "seconds": 1.25,
}
RECORDS: list[Record] = [
    ScoreRecord(**COMMON, metrics=ScoreMetrics(640, 1.5, 1.0)),
    PruneRecord(**COMMON, metrics=PruneMetrics(100, 5, 20.0, 1e-6, {"before": 0.9, "rebuilt": 0.4})),
    FinetuneRecord(**COMMON, metrics=FinetuneMetrics(4, METRICS, None, (METRICS, None))),
    BenchRecord(
        **COMMON | {"inputs": Inputs(models=(MODEL,))},
        metrics=BenchMetrics((Benchmark("a", 1, 2, 3, (64, 32), (LATENCY,)),)),
    ),
    ExportRecord(
        **COMMON, metrics=ExportReport(Path("/f.onnx"), "onnx", "float32", 9, 2, 8, 0.1, 48, "given", 1.0, 1e-6)
    ),
    ReportRecord(**COMMON, metrics=ReportMetrics(10, {"latency": "Latency was not measured."})),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a `run.json` with a record of each command, without the hash that would hide what is tested."""
    folder = tmp_path_factory.mktemp("run")
    for record in RECORDS:
        Run.open(folder).add(record)
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    del content[KEY]
    return content


def test_every_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for record in RECORDS:
        Run.open(tmp_path).add(record)
    run = Run.open(tmp_path)
    assert run.records == RECORDS
    for record in RECORDS:
        assert run.latest(type(record)) == record


def test_records_of_two_commands_at_once_are_both_kept(tmp_path: Path) -> None:
    first, second = Run.open(tmp_path), Run.open(tmp_path)
    second.add(RECORDS[4])
    first.add(RECORDS[2])
    assert [record.command for record in Run.open(tmp_path).records] == ["export", "finetune"]
    assert first.latest(ExportRecord) is not None


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every value of a decoded JSON document is."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, child in children for place in paths(child, (*path, name)))]


def changed(content: Any, path: tuple[str | int, ...], change: Callable[[Any, str | int], None]) -> Any:
    content = copy.deepcopy(content)
    parent = content
    for name in path[:-1]:
        parent = parent[name]
    change(parent, path[-1])
    return content


def refusal(folder: Path, content: Any) -> str:
    """The message that a `run.json` is refused with; empty where it is read."""
    (folder / "run.json").write_text(json.dumps(content))
    message = ""
    try:
        Run.open(folder)
    except RunError as error:
        message = str(error)
    assert not message or str(folder / "run.json") in message
    assert "\n" not in message
    return message


WRONG = [None, 7, "text", [], [1], {}, {"a": 1}, True, float("nan"), float("inf"), -(10**400), "\x00"]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_field_of_the_wrong_type_is_named(
    written: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(paths(written)[1:]))
    value = data.draw(st.sampled_from(WRONG))
    content = changed(written, path, lambda parent, name: parent.__setitem__(name, value))
    # Either the value is one that the field may have, or the message names the file: nothing else is raised.
    refusal(tmp_path_factory.getbasetemp(), content)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ((), None, ("format is missing",)),
        (("format",), "cfp-run/1", ("'cfp-run/1'", "cfp-run/2")),
        (("records",), {}, ("records is not a list",)),
        (("records", 1), None, ("records[1] is not an object",)),
        (("records", 1, "command"), "prunes", ("records[1].command is 'prunes'", "finetune")),
        (("records", 0, "seed"), "3", ("records[0].seed is '3', not an integer",)),
        (("records", 0, "seed"), True, ("records[0].seed is true, not an integer",)),
        (("records", 0, "seconds"), float("nan"), ("records[0].seconds is nan, not a finite number",)),
        (("records", 0, "arguments", "ratio"), float("inf"), ("records[0].arguments.ratio is inf",)),
        (("records", 0, "inputs", "model", "sha256"), "12", ("records[0].inputs.model.sha256 is '12'",)),
        (("records", 1, "metrics", "accuracy", "before"), None, ("metrics.accuracy.before is null, not a number",)),
        (("records", 2, "metrics", "val", "confusion", 0, 1), 1.5, ("metrics.val.confusion[0][1] is 1.5",)),
        (("records", 3, "metrics", "models", 0, "input_size"), [1], ("input_size has 1 values, not 2",)),
        (("records", 4, "metrics", "format"), "tflite", ("format is 'tflite', not one of onnx, pt2",)),
        (("records", 1, "outputs"), {}, ("records[1].outputs.pruned is missing",)),
        (("records", 2, "inputs", "teachers"), [], ("records[2].metrics.teachers has 2 values",)),
        (("records", 2, "metrics", "val", "confusion"), [[1]], ("metrics.val.confusion is not a square matrix of 2",)),
        (("records", 3, "inputs", "models"), [], ("records[3].metrics.models has 1 values",)),
        (("records", 5, "metrics", "pages"), 1, ("unknown field records[5].metrics.pages",)),
    ],
)
def test_a_wrong_field_is_named(
    written: dict[str, Any], tmp_path: Path, path: tuple[str | int, ...], value: Any, words: tuple[str, ...]
) -> None:
    content = changed(written, path, lambda parent, name: parent.__setitem__(name, value)) if path else value
    message = refusal(tmp_path, content)
    assert all(word in message for word in words), message


def test_a_missing_field_is_named(written: dict[str, Any], tmp_path: Path) -> None:
    content = changed(written, ("records", 2, "metrics", "best_epoch"), lambda parent, name: parent.pop(name))
    assert "records[2].metrics.best_epoch is missing" in refusal(tmp_path, content)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00", "null", "3"])
def test_a_file_that_is_no_run_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        Run.open(tmp_path)


def test_an_integer_of_more_than_64_bits_is_refused(written: dict[str, Any], tmp_path: Path) -> None:
    content = copy.deepcopy(written)
    content["records"][2]["metrics"]["val"]["confusion"][0][0] = 10**30
    assert "records[2].metrics.val.confusion[0][0] is 1" in refusal(tmp_path, content)
