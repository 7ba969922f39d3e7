"""Tables fit 80 columns, name their columns, and never cut a name; 2 or 200 classes, pipe or terminal."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console as RichConsole
from rich.table import Table

from cfp_cli.commands.bench import cost_table, latency_table
from cfp_cli.commands.console import Console
from cfp_cli.commands.eval import confusion_table, metrics_table, mistakes_table
from cfp_cli.commands.finetune import summary_tables
from cfp_cli.commands.next_command import next_command
from cfp_cli.commands.predict import classes_table, images_table
from cfp_cli.commands.prune import sets_table, summary_table
from cfp_cli.commands.tables import Parts, fit, listed, sentence
from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.measuring.latency import Latency
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.measuring.mistakes import Mistake
from cfp_cli.pruning.plan import SetPlan
from cfp_cli.runs.command_line import DEFAULT_RUN
from cfp_cli.runs.directory import Run
from cfp_cli.runs.next_step import next_step
from cfp_cli.runs.predict import Predicted, PredictedClass, Prediction


@cache
def metrics_of(count: int, seed: int = 0) -> Metrics:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), 30)
    predicted = np.where(generator.random(len(labels)) < 0.9, labels, generator.integers(0, count, len(labels)))
    return compute_metrics(torch.from_numpy(predicted), torch.from_numpy(labels), names(count))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"surface_defect{index}"[-16:] for index in range(count))


def tables(count: int) -> list[Table]:
    first, second, third = (metrics_of(count, seed) for seed in range(3))
    history = SimpleNamespace(best_epoch=118, val=second, test=second)
    done = SimpleNamespace(history=history, before=first, before_test=first, teachers=(third, None, second))
    sets = tuple(
        SetPlan(f"layer{index}.0.conv2", 2048, tuple(range(5)), (1,) * 2048, ("logits",)) for index in range(3)
    )
    plan = SimpleNamespace(
        sets=sets,
        params_before=138_357_544,
        params_after=3_357_544,
        compression=41.2,
        macs_before=15_470_264_320,
        macs_after=470_264_320,
        requested=0.95,
        achieved=0.9501,
        target="params",
        options={"allocation": "measured", "candidates": 4},
        max_abs_logit_error=1e-7,
    )
    stages = {"before": first, "rebuilt": second, "reconstructed": third}
    label, *_ = names(count)
    latency = (Latency(64, 16, 11344.78, 9738.29, 11818.83, 10, "onnxruntime", "contiguous", "cpu"),)
    timed = [
        Benchmark(name, 138_357_544, 15 * 10**9, 553_430_176, (64, 64), latency, "float32")
        for name in ("rl.pt", "cfp-run/finetuned.pt")
    ]
    row = Prediction(Path("data/test/image_0001.png"), label, 0.5, (0.5,) + (0.5 / (count - 1),) * (count - 1), True)
    predicted = Predicted(names(count), (row,), (PredictedClass(label, 1, 0.5, 1),), (row,), ())
    return [
        metrics_table(first, "model.pt on test"),
        confusion_table(first, 80),
        mistakes_table([Mistake(0, Path("data/test/image_0001.png"), label, label, 0.9)]),
        *summary_tables(done),
        sets_table(plan),
        summary_table(plan, stages),
        cost_table(timed),
        latency_table(timed),
        images_table(predicted, predicted.rows, "predictions"),
        classes_table(predicted),
    ]


def shown(table: Table, width: int, terminal: bool) -> str:
    console = RichConsole(file=io.StringIO(), force_terminal=terminal, width=width if terminal else 100_000)
    fit(table, console, width)
    console.print(table)
    return re.sub("\x1b\\[[0-9;]*m", "", console.file.getvalue())


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("count", [2, 200])
def test_each_table_fits_and_cuts_no_name(count: int, width: int, terminal: bool) -> None:
    for table in tables(count):
        text = shown(table, width, terminal)
        assert max(map(len, text.splitlines())) <= width, text
        assert "…" not in text
        words = {word for row in text.splitlines() for word in row.replace("│", " ").split()}
        for column in table.columns:
            for cell in column.cells:
                parts = cell.parts if isinstance(cell, Parts) else (cell,)
                assert {word for part in parts for word in part.split()} <= words, text


def test_each_column_has_a_name() -> None:
    for table in tables(3):
        assert [str(column.header) for column in table.columns[1:]].count("") == 0, table.title


def test_validation_and_test_figures_are_in_tables_of_their_own() -> None:
    validation, test = (table for table in tables(3) if "images: " in str(table.title))
    assert "validation images" in str(validation.title)
    assert "test images" in str(test.title)
    assert not any("teacher" in str(cell) for cell in validation.columns[0].cells)
    assert [str(cell) for cell in test.columns[0].cells] == [
        "teacher 1",
        "teacher 3",
        "student before",
        "student after epoch 119",
    ]


def test_the_figure_before_the_refit_is_no_verdict() -> None:
    one_class = compute_metrics(torch.zeros(90, dtype=torch.int64), torch.arange(3).repeat_interleave(30), names(3))
    assert one_class.collapse is not None
    good = metrics_of(3)
    plan = SimpleNamespace(
        params_before=10, params_after=1, compression=10.0, macs_before=10, macs_after=1, requested=0.9, achieved=0.9,
        target="params", options={}, max_abs_logit_error=0.0,
    )  # fmt: skip
    repaired = summary_table(plan, {"before": good, "rebuilt": one_class, "reconstructed": good})
    assert "val accuracy before the refit" in [str(cell) for cell in repaired.columns[0].cells]
    assert "collapsed" not in shown(repaired, 80, False)
    assert "collapsed" in shown(summary_table(plan, {"before": good, "rebuilt": one_class}), 80, False)


def test_cells_break_between_parts_only() -> None:
    assert Parts(("95.00%", "(90.0 to 98.0)")).lines(20) == ["95.00%", "(90.0 to 98.0)"]
    assert Parts(("95.00%", "(90.0 to 98.0)")).lines(21) == ["95.00% (90.0 to 98.0)"]
    assert listed(["a.b", "c d"]).lines(7) == ["a.b,", "c d"]
    assert listed([]).lines(5) == [""]
    assert sentence("one two three").lines(7) == ["one two", "three"]


def test_a_pipe_gets_tables_of_80_columns_and_lines_that_are_not_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console = Console()
    assert console.width == 80
    line = "word " * 60
    console.result({}, metrics_table(metrics_of(2), "x"), line)
    *rows, last = capsys.readouterr().out.splitlines()
    assert last.split() == line.split()
    assert max(map(len, rows)) <= 80


def test_the_next_command_has_what_the_run_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert next_command(DEFAULT_RUN, "prune", "--ratio", "0.95") == "next: cfp prune --ratio 0.95"
    line = next_command(Path("a b"), "finetune", tmp_path / "rl.pt", arch="net.py:f")
    assert line == "next: cfp finetune rl.pt --arch net.py:f --run 'a b'"


def test_unsure_images_are_listed_beside_a_csv_file(cfp, model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = cfp("predict", model, images / "test", "--threshold", 1, "--csv", out)
    assert result.code == 0, result.err
    assert "unsure predictions" in result.out
    assert result.out.count("test/") == 20
    assert "the 20 with the lowest confidence of 24" in " ".join(result.out.split())
    assert "unsure predictions" not in cfp("predict", model, images / "test", "--csv", out).out


def test_a_prune_without_labels_speaks_of_outputs() -> None:
    figures = {"params_before": 2, "params_after": 1, "macs_before": 2, "macs_after": 1, "compression": 2.0}
    plan = SimpleNamespace(**figures, requested=0.5, achieved=0.5, target="params", options={}, max_abs_logit_error=0.0)
    rows = [str(cell) for cell in summary_table(plan, {}, {"before": 0.0, "reconstructed": 0.1}).columns[0].cells]
    assert "largest output error of the rebuild" in rows


def test_score_speaks_of_channel_sets_and_names_the_next_command(cfp, scored: Path, model: Path, images: Path) -> None:
    result = cfp("score", model, images, "--images", 24, "--run", "other")
    assert result.code == 0, result.err
    sets = [each["name"] for each in cfp("prune", "--ratio", 0.5, "--dry-run", "--json").json["sets"]]
    for name in sets[:-1]:
        assert f"│ {name} " in result.out
    assert "explained" not in result.out
    assert "written other/scores.safetensors" in result.out
    assert "next: cfp prune --ratio 0.95 --run other" in result.out
    line = next(row for row in cfp("prune", "--ratio", 0.5).out.splitlines() if row.startswith("next: "))
    assert line == f"next: cfp finetune --teachers {model}"


def test_inspect_explains_its_words_and_commands_name_the_next_one(
    cfp, model: Path, images: Path, tmp_path: Path
) -> None:
    shown = cfp("inspect", model, "--input-size", "32")
    assert "makes: outputs the channels of this set" in shown.out
    assert f"next: cfp score {model} DATA --input-size 32x32" in shown.out
    assert f"next: cfp score {model} {images}" in cfp("eval", model, images).out
    predicted = cfp("predict", model, images / "test")
    assert f"next: cfp predict {model} {images / 'test'} --csv predictions.csv" in predicted.out
    assert "unsure" not in predicted.out
    out = tmp_path / "out.csv"
    assert f"next: cfp bench {model}" in cfp("predict", model, images / "test", "--csv", out, "--threshold", 0.5).out


def test_a_run_continues_where_it_stands(scored: Path) -> None:
    run = Run.open(scored)
    assert next_step(run, None, None, None) == f"cfp prune --ratio 0.95 --run {scored}"
    line = next_step(run, SimpleNamespace(), None, "net.py:f")  # type: ignore[arg-type]
    assert line.startswith("cfp finetune --teachers ")
    assert line.endswith(f" --arch net.py:f --run {scored}")
    tuned = SimpleNamespace(outputs={"finetuned": SimpleNamespace(sha256="a" * 64)})
    assert "cfp export --format onnx" in next_step(run, SimpleNamespace(), tuned, None)  # type: ignore[arg-type]
