from __future__ import annotations

import copy
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.commands.compare import summary_table
from cfp_cli.comparing.grid import compare
from cfp_cli.comparing.methods import METHODS, chosen
from cfp_cli.comparing.rows import Comparison, read_rows, summaries, write_rows
from cfp_cli.comparing.students import Students
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.synthetic import generate
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.errors import DataError, RunError, UsageError
from cfp_cli.measuring.metrics import evaluate
from cfp_cli.pruning.refit import Refit
from cfp_cli.training.history import EpochRow
from cfp_cli.training.options import TrainOptions

OPTIONS = TrainOptions.preset("paper", epochs=1, batch_size=16, lr=1e-3, views=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(generate(tmp_path_factory.mktemp("compared") / "data", per_class=8, test_per_class=3, size=64))


@pytest.fixture(scope="module")
def teacher(dataset: Dataset) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inner, outer in ((3, 48), (48, 64), (64, 96)):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, len(dataset.classes)))
    return describe(net.eval(), ModelSpec("tiny", dataset.classes, input_size=(24, 24)))


def test_every_method_removes_the_same_share(dataset: Dataset, teacher: nn.Module, tmp_path: Path) -> None:
    rows = compare([teacher], dataset, list(METHODS.values()), [0.7], [0], OPTIONS, folder=tmp_path, images=18)
    assert [row.method for row in rows] == list(METHODS)
    before = sum(parameter.numel() for parameter in teacher.parameters())
    for row in rows:
        assert abs(1 - row.params / before - 0.7) <= 0.005
        assert row.compression == pytest.approx(before / row.params)
        assert 0 <= row.test_accuracy <= 1
    assert len({row.teacher_accuracy for row in rows}) == 1
    assert list(read_rows(tmp_path / "results.csv")) == list(rows)


def test_what_is_done_is_not_done_again(
    dataset: Dataset, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare([teacher], dataset, chosen(["l1"]), [0.6], [0], OPTIONS, folder=tmp_path, images=18)
    done: list[str] = []
    monkeypatch.setattr(
        "cfp_cli.comparing.grid._Grid.run",
        lambda _self, method, ratio, seed: done.append(method.name) or replace(first[0], method=method.name, seed=seed),
    )
    again = compare([teacher], dataset, chosen(["l1", "l2"]), [0.6], [0], OPTIONS, folder=tmp_path, images=18)
    assert done == ["l2"]
    assert again[0] == first[0]
    # Another seed, ratio or fine-tuning is another cell.
    compare([teacher], dataset, chosen(["l1"]), [0.6], [1], OPTIONS, folder=tmp_path, images=18)
    compare([teacher], dataset, chosen(["l1"]), [0.5], [0], OPTIONS, folder=tmp_path, images=18)
    compare([teacher], dataset, chosen(["l1"]), [0.6], [0], replace(OPTIONS, epochs=2), folder=tmp_path, images=18)
    assert done == ["l2", "l1", "l1", "l1"]
    sliced = Refit(reconstruct=False)
    compare([teacher], dataset, chosen(["l1"]), [0.6], [0], OPTIONS, folder=tmp_path, images=18, refit=sliced)
    assert done.pop() == "l1"
    # So is another class-balanced teacher.
    compare([teacher, teacher], dataset, chosen(["l1"]), [0.6], [0], OPTIONS, folder=tmp_path, images=18)
    other = copy.deepcopy(teacher)
    torch.nn.init.zeros_(other[-1].weight)
    compare([teacher, other], dataset, chosen(["l1"]), [0.6], [0], OPTIONS, folder=tmp_path, images=18)
    assert done == ["l2", "l1", "l1", "l1", "l1", "l1"]


def test_without_fine_tuning_rows_are_what_pruning_leaves(dataset: Dataset, teacher: nn.Module, tmp_path: Path) -> None:
    (row,) = compare([teacher], dataset, chosen(["cfp"]), [0.6], [0], None, folder=tmp_path, images=18)
    students = Students(teacher, dataset, tmp_path, 18, torch.device("cpu"))
    student, _ = students.make(METHODS["cfp"], 0.6, 0, 0)
    for split, accuracy in (("val", row.val_accuracy), ("test", row.test_accuracy)):
        store = load_images(dataset, split, Preprocessing.of(spec_of(teacher)))
        assert evaluate(student, store.batches(8)).accuracy == accuracy
    assert row.best_epoch == 0
    with pytest.raises(UsageError, match=r"--no-finetune cannot be used with .*, which trains"):
        compare([teacher], dataset, chosen(["cfp-rounds"]), [0.6], [0], None, folder=tmp_path, images=18)


def test_a_stopped_cell_goes_on_and_another_does_not_take_its_state(
    dataset: Dataset, teacher: nn.Module, tmp_path: Path
) -> None:
    def stop(rows: Sequence[EpochRow]) -> None:
        if len(rows) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    options = replace(OPTIONS, epochs=3)
    whole = compare([teacher], dataset, chosen(["l1"]), [0.6], [0], options, folder=tmp_path / "whole", images=18)
    with pytest.raises(KeyboardInterrupt):
        compare([teacher], dataset, chosen(["l1"]), [0.6], [0], options, folder=tmp_path, images=18, listen=stop)
    assert list((tmp_path / "current").glob("*/last.pt"))
    other = replace(options, lr=2e-3)
    compare([teacher], dataset, chosen(["l1"]), [0.6], [0], other, folder=tmp_path, images=18)
    again = compare([teacher], dataset, chosen(["l1"]), [0.6], [0], options, folder=tmp_path, images=18)
    assert replace(again[0], seconds=0) == replace(whole[0], seconds=0)
    assert not list((tmp_path / "current").iterdir())


def test_a_student_with_other_bits_begins_anew(
    dataset: Dataset, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that another number of threads has fitted."""

    def stop(rows: Sequence[EpochRow]) -> None:
        if len(rows) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def other(self: Students, *arguments: Any) -> Any:
        student, made = make(self, *arguments)
        with torch.no_grad():
            next(student.parameters()).mul_(1 + 1e-6)
        return student, made

    options = replace(OPTIONS, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        compare([teacher], dataset, chosen(["l1"]), [0.6], [0], options, folder=tmp_path, images=18, listen=stop)
    make = Students.make
    monkeypatch.setattr(Students, "make", other)
    epochs: list[int] = []
    compare(
        [teacher],
        dataset,
        chosen(["l1"]),
        [0.6],
        [0],
        options,
        folder=tmp_path,
        images=18,
        listen=lambda rows: epochs.append(rows[-1].epoch),
    )
    assert epochs == [0, 1, 2]


def test_the_same_cell_gives_the_same_row(dataset: Dataset, teacher: nn.Module, tmp_path: Path) -> None:
    one, other = (
        compare([teacher], dataset, chosen(["cfp"]), [0.6], [1], OPTIONS, folder=tmp_path / name, images=18)[0]
        for name in ("one", "other")
    )
    assert replace(one, seconds=0) == replace(other, seconds=0)


def test_scratch_forgets_what_was_kept(dataset: Dataset, teacher: nn.Module, tmp_path: Path) -> None:
    from cfp_cli.comparing.students import forget
    from cfp_cli.graph import Selection, channel_sets
    from cfp_cli.pruning.rebuild import rebuild

    graph = channel_sets(teacher, torch.rand(1, 3, 24, 24))
    student = rebuild(
        teacher, Selection(graph, {group.name: torch.arange(group.size).numpy()[:4] for group in graph.prunable})
    )
    kept = {name: value.clone() for name, value in student.state_dict().items()}
    forget(student, 7)
    weights = [name for name, value in kept.items() if value.dim() > 1]
    assert all(not torch.equal(student.state_dict()[name], kept[name]) for name in weights)


def test_summaries_are_means_and_deviations() -> None:
    row = Comparison("n", "d", "l1", 0.9, 0, "{}", 10.0, 100, 5, 0.9, 0.90, 0.8, 0.99, 0.98, 1, 1.0, "{}")
    rows = [row, replace(row, seed=1, test_accuracy=0.94), replace(row, method="cfp", test_accuracy=0.95)]
    best, other = summaries(rows)
    assert (best.method, best.seeds, best.accuracy) == ("cfp", 1, (0.95, 0.0))
    assert other.accuracy == pytest.approx((0.92, 0.02 * 2**0.5))
    assert other.lost == pytest.approx(0.07)
    # A single run is shown without a spread, for it has none.
    columns = {str(each.header): list(each.cells) for each in summary_table((best, other)).columns}
    assert columns["test accuracy"] == ["95.00%", "92.00% ± 2.83%"]


def test_errors_say_what_to_do(dataset: Dataset, teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no method 'l3'; one of cfp"):
        chosen(["l3"])
    without = replace(dataset, splits={name: items for name, items in dataset.splits.items() if name != "test"})
    with pytest.raises(DataError, match="test split"):
        compare([teacher], without, chosen(["l1"]), [0.5], [0], OPTIONS, folder=tmp_path)
    (tmp_path / "results.csv").write_text("method,ratio\nl1,0.5\n")
    with pytest.raises(RunError, match=r"results\.csv is not a result file"):
        list(read_rows(tmp_path / "results.csv"))


def test_rows_survive_their_file(tmp_path: Path) -> None:
    row = Comparison(
        "n", "d", "l1", 0.97436, 0, '{"a": "b, c"}', 1 / 3, 100, 5, 0.9, 0.9, 0.8, 0.99, 0.98, 1, 1.0, "{}"
    )
    write_rows(tmp_path / "results.csv", [row])
    assert list(read_rows(tmp_path / "results.csv")) == [row]


def test_recoveries_compute_as_the_fine_tuning_does(
    dataset: Dataset, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[TrainOptions] = []
    monkeypatch.setattr(
        "cfp_cli.training.recovery.finetune", lambda _model, _data, _teachers, options, **_: taught.append(options)
    )
    Students(teacher, dataset, tmp_path, 18, torch.device("cpu")).make(METHODS["cfp-rounds"], 0.6, 0, 2, "bf16")
    assert [(options.amp, options.epochs) for options in taught] == [("bf16", 2), ("bf16", 2)]


def test_a_damaged_row_of_a_result_file_is_refused(tmp_path: Path) -> None:
    row = Comparison("n", "d", "l1", 0.5, 0, "{}", 2.0, 100, 5, 0.9, 0.9, 0.8, 0.99, 0.98, 1, 1.0, "{}")
    path = tmp_path / "results.csv"
    write_rows(path, [row, replace(row, seed=1)])
    content = path.read_bytes()
    messages = []
    accepted = []
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            accepted.append(list(read_rows(path)))
        except RunError as error:
            messages.append(str(error))
    assert all(rows == [row, replace(row, seed=1)] for rows in accepted)
    assert all("results.csv" in each and "\n" not in each for each in messages)
    assert any("its content does not match its hash; delete the line" in each for each in messages)
    assert len(messages) > 0.9 * len(content)


@pytest.mark.parametrize("method", ["cfp", "l1", "random-redundancy"])
def test_a_ratio_of_multiply_adds(dataset: Dataset, teacher: nn.Module, tmp_path: Path, method: str) -> None:
    by_target = [
        compare([teacher], dataset, chosen([method]), [0.5], [0], None, folder=tmp_path, images=18, target=target)[0]
        for target in ("params", "macs", "macs")
    ]
    original = Students(teacher, dataset, tmp_path, 18, torch.device("cpu"))
    before = original.make(chosen([method])[0], 0.5, 0, 0)[1].macs_before
    assert abs(1 - by_target[1].macs / before - 0.5) <= 0.005
    assert by_target[0].macs != by_target[1].macs
    # The row of a target is found again, and those of parameters are as before.
    assert by_target[1] == by_target[2]
    assert "target" not in by_target[0].options
    assert len(list(read_rows(tmp_path / "results.csv"))) == 2
