"""Fields that the standing harness found to be accepted, called a bug, or refused without their name."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from cfp_cli.commands.config import name_source
from cfp_cli.data.atomic_folder import write_folder
from cfp_cli.exporting import openvino_file
from cfp_cli.foundation.errors import CfpError, DataError, RunError, StorageError, UsageError
from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.metrics import ClassMetrics, Metrics
from cfp_cli.pruning.plan import Plan
from cfp_cli.training import teacher_cache
from cfp_cli.training.history import EpochRow, read_csv, write_csv

ROW = EpochRow(0, 1.0, None, None, None, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 9.0, 1.0)


@pytest.mark.parametrize("name", ["recall", "precision", "f1"])
@pytest.mark.parametrize("value", [-1.0, 1.5, 1e308, float("nan")])
def test_ratios_outside_their_range_are_refused(name: str, value: float) -> None:
    good: dict[str, Any] = {"recall": 0.5, "precision": 0.5, "f1": 0.5, "images": 2, "predicted": 2}
    with pytest.raises(FieldError, match=f"{name} is .*, not from 0 to 1"):
        ClassMetrics(**{**good, name: value})


def test_counts_that_do_not_fit_are_refused() -> None:
    each = ClassMetrics(0.5, 0.5, 0.5, 2, 2)
    with pytest.raises(FieldError, match="images is 7, but the classes of per_class have 2 images"):
        Metrics(0.5, 0.5, 0.5, 0.5, 0.5, {"a": each}, ((2,),), 7)
    with pytest.raises(FieldError, match="images is -1"):
        ClassMetrics(0.5, 0.5, 0.5, -1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("accuracy", "exactness", 1), "has no column accuracy, but 'exactness'"),
        (lambda text: text.replace("accuracy,", "", 1), "has no column accuracy"),
        (lambda text: text.replace("accuracy,", "accuracy,accuracy,", 1), "has 2 columns accuracy"),
        (lambda text: text + '"', "line 3 cannot be read"),
    ],
)
def test_a_wrong_header_of_a_history_is_named(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = tmp_path / "history.csv"
    write_csv(path, [ROW])
    path.write_text(change(path.read_text()))
    with pytest.raises(RunError, match=rf"history\.csv:? {message}"):
        read_csv(path)


@pytest.mark.parametrize("content", [{}, {"format": 7}, {"format": [[1]]}])
def test_the_format_of_a_plan_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"plan\.json is not a plan of this version: format is"):
        Plan.load(path)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_cached_logits_that_are_not_finite_are_computed_again(tmp_path: Path, wrong: float) -> None:
    table = np.ones((2, 1, 3), np.float32)
    teacher_cache._write(tmp_path / "a.npy", table)
    assert teacher_cache._read(tmp_path / "a.npy", table.shape) is not None
    teacher_cache._write(tmp_path / "a.npy", table * np.float32(wrong))
    assert teacher_cache._read(tmp_path / "a.npy", table.shape) is None


Say = Callable[[str, CfpError, dict[str, Any]], str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Return the message of an error of a command whose options come from a configuration file."""
    monkeypatch.chdir(tmp_path)

    def run(toml: str, error: CfpError, defaults: dict[str, Any]) -> str:
        @click.command()
        @click.option("--min-channels", type=int)
        @click.option("--keep", multiple=True)
        @click.option("--run")
        def main(**_: Any) -> None:
            name_source(click.get_current_context(), error)

        Path("cfp.toml").write_text(toml)
        main.main([], default_map=defaults, standalone_mode=False)
        return str(error)

    return run


def test_an_error_names_the_configuration_file_that_causes_it(command: Say) -> None:
    text = "[prune]\nkeep = ['x.y']"
    said = command(text, UsageError("pattern 'x.y' matches nothing"), {"keep": ["x.y"], "min_channels": 3})
    assert said == "pattern 'x.y' matches nothing (cfp.toml sets keep)"
    said = command(text, UsageError("change --min-channels"), {"min_channels": 3, "run": "runs/a"})
    assert said == "change --min-channels (cfp.toml sets min-channels)"
    assert command(text, UsageError("a disk is full"), {"min_channels": 3, "run": "runs/a"}) == "a disk is full"
    assert command(text, UsageError("change --min-channels"), {}) == "change --min-channels"


def test_the_temporary_folder_of_a_killed_copy_is_deleted_in_any_case(tmp_path: Path) -> None:
    dead = tmp_path / ".data.filling-x"
    dead.mkdir()
    (dead / ".lock").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "image.png").touch()
    with pytest.raises(DataError, match="is not an empty folder"):
        write_folder(tmp_path / "data", lambda _: None)
    assert not dead.exists()


def test_a_full_disk_keeps_both_files_of_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old.xml", "old.bin", "new.xml", "new.bin"):
        (tmp_path / name).write_text(name)

    def contents() -> list[str]:
        return [(tmp_path / name).read_text() for name in ("old.xml", "old.bin")]

    # The files of the graph and of the weights; their folder is flushed after the first rename.
    for full_at in (1, 2):
        calls = iter(range(1, 100))

        def flush(_: int, calls: Iterator[int] = calls, full_at: int = full_at) -> None:
            if next(calls) == full_at:
                raise OSError(errno.ENOSPC, "full")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", flush)
            with pytest.raises(StorageError, match="its disk is full"):
                openvino_file.write(tmp_path / "new.xml", tmp_path / "old.xml")
        assert contents() == ["old.xml", "old.bin"]
    openvino_file.write(tmp_path / "new.xml", tmp_path / "old.xml")
    assert contents() == ["new.xml", "new.bin"]
    assert len(list(tmp_path.iterdir())) == 4
