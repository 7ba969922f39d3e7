from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lines import Lines
from PIL import Image
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.foundation.errors import DataError
from cfp_cli.runs.inputs import ModelInput, fit_to_data, load_teacher


class Constant(nn.Module):
    """Logits 0, 1, 2, ... in the order of its classes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(spec_of(self).classes)).float().expand(len(images), -1)


def network(*classes: str, lineage: tuple[dict, ...] = ({"stage": "train"},)) -> nn.Module:
    return describe(Constant(), ModelSpec("constant", classes, lineage=lineage))


def data(root: Path, *classes: str, splits: tuple[str, ...] = ("train", "test")) -> Dataset:
    for split in splits:
        for number, label in enumerate(classes):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new("L", (4, 4), 50 * number + index).save(folder / f"{index}.png")
    return open_dataset(root)


def test_data_take_the_order_of_the_network(tmp_path: Path) -> None:
    given = data(tmp_path, "a", "b", "c")
    model, ordered = fit_to_data(network("c", "a", "b"), given, tmp_path / "m.pt")
    assert ordered.classes == spec_of(model).classes == ("c", "a", "b")
    for item in ordered.split("test"):
        assert item.path.parent.name == ordered.classes[item.label]


def test_a_teacher_of_another_order_is_put_into_the_order_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = data(tmp_path, "a", "b", "c")
    monkeypatch.setattr(ModelInput, "load", lambda self, progress: network("c", "a", "b"))
    teacher = load_teacher(given, ModelInput(tmp_path / "teacher.pt"))
    assert spec_of(teacher).classes == ("a", "b", "c")
    assert teacher(torch.zeros(2, 3, 4, 4)).tolist() == [[1, 2, 0]] * 2


def test_a_lot_of_one_class_can_be_evaluated(tmp_path: Path) -> None:
    told = Lines()
    lot = data(tmp_path, "b", splits=("test",))
    _, ordered = fit_to_data(network("a", "b", "c"), lot, tmp_path / "m.pt", told)
    assert ordered.counts("test") == (0, 3, 0)
    assert told.lines == [f"{tmp_path} has no images of class 'a', 'c' of {tmp_path}/m.pt"]
    with pytest.raises(DataError, match=r"has 3 classes but .*pass --classes"):
        fit_to_data(network("0", "1", "2", lineage=()), lot, tmp_path / "m.pt")


def test_data_to_train_on_need_every_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 classes but .* has 2 \('c' is only in the first\)"):
        fit_to_data(network("a", "b", "c"), data(tmp_path, "a", "b"), tmp_path / "m.pt")


@pytest.mark.parametrize(("lineage", "lines"), [((), 1), (({"stage": "train"},), 0)])
def test_unnamed_networks_of_other_tools_are_warned_about_numbers(tmp_path: Path, lineage, lines: int) -> None:
    given = data(tmp_path, *map(str, range(11)))
    told = Lines()
    _, ordered = fit_to_data(network(*map(str, range(11)), lineage=lineage), given, tmp_path / "m.pth", told)
    assert ordered.classes == given.classes
    assert len(told.lines) == lines
    assert all("pass --classes" in line for line in told.lines)
