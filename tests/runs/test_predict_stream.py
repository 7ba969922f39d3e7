"""`cfp predict --csv` keeps the predictions of one batch at a time, so that any number of images fits in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import cfp_cli.runs.predict as module
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.unlabelled import Batch
from cfp_cli.foundation.errors import CfpError
from cfp_cli.models.registry import create
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.predict import Prediction, run_predict

CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path: Path) -> ModelInput:
    torch.manual_seed(0)
    path = tmp_path / "m.pt"
    save(path, describe(create("dddn", 3), ModelSpec("dddn", ("crack", "ok", "größe"), input_size=(16, 16))))
    return ModelInput(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The names of 200 images that are never read."""
    (tmp_path / "list.txt").write_text("\n".join(f"{index}.png" for index in range(200)))
    return tmp_path / "list.txt"


def stream(monkeypatch: pytest.MonkeyPatch, each=lambda: None, fail: int = -1) -> None:
    """Replace the images by random ones in batches of 4, and call `each` before each batch."""

    def batches(paths, *_: object) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, len(paths), 4):
            each()
            if start == fail:
                raise CfpError("the images end")
            yield Batch(paths[start : start + 4], torch.rand(4, 3, 16, 16, generator=generator))

    monkeypatch.setattr(module, "ImageStream", batches)


@pytest.mark.parametrize("keep_rows", [False, True])
def test_rows_in_memory(
    monkeypatch: pytest.MonkeyPatch, model: ModelInput, images: Path, tmp_path: Path, keep_rows: bool
) -> None:
    alive: list[int] = []
    count = 0

    class Counted(Prediction):
        def __init__(self, *values: Any) -> None:
            nonlocal count
            count += 1
            super().__init__(*values)

        def __del__(self) -> None:
            nonlocal count
            count -= 1

    monkeypatch.setattr(module, "Prediction", Counted)
    stream(monkeypatch, lambda: alive.append(count))
    predicted = run_predict(model, [images], out=tmp_path / "p.csv", keep_rows=keep_rows, threshold=0.4, device=CPU)
    if keep_rows:
        assert max(alive) - alive[0] == 196
    else:
        assert max(alive) - alive[0] <= module.MOST_UNSURE + 1
    assert len(predicted.rows) == (200 if keep_rows else 0)
    assert predicted.images == 200
    assert [each.name for each in predicted.summary] == list(predicted.classes)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert len(lines) == 201
    assert sum(each.unsure for each in predicted.summary) == sum(",unsure," in line for line in lines[1:])
    if keep_rows:
        unsure = sorted((row for row in predicted.rows if row.unsure), key=lambda row: row.confidence)
        assert predicted.most_unsure == tuple(unsure[: module.MOST_UNSURE])
        assert len(unsure) > module.MOST_UNSURE
        for row, line in zip(predicted.rows, lines[1:], strict=True):
            assert line.startswith(f"{row.path},{row.label},{row.confidence:.6f}")
            assert row.unsure == (row.confidence < 0.4)


def test_a_failure_leaves_the_old_file(
    monkeypatch: pytest.MonkeyPatch, model: ModelInput, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.csv").write_text("old")
    stream(monkeypatch, fail=20)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CfpError, match="the images end"):
        run_predict(model, [images], out=tmp_path / "p.csv", keep_rows=False, device=CPU)
    assert (tmp_path / "p.csv").read_text() == "old"
    assert sorted(tmp_path.iterdir()) == before
