"""Class names that look the same but store their accents differently are refused, in one folder and across splits."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.dataset import open_dataset
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import Silent
from cfp_cli.runs.inputs import fit_to_data

NFC, NFD = (unicodedata.normalize(form, "Fläche") for form in ("NFC", "NFD"))


def images(*folders: Path) -> None:
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8), (number * 40, index * 20, 9)).save(folder / f"{index}.png")


def test_names_of_two_forms_are_refused(tmp_path: Path) -> None:
    one, split = tmp_path / "one", tmp_path / "split"
    images(one / NFC, one / NFD, one / "ok")
    images(split / "train" / NFC, split / "train" / "ok", split / "test" / NFD, split / "test" / "ok")
    for root in (one, split):
        with pytest.raises(DataError, match=r"look like 'Fläche' but store its accents differently: .*u0308"):
            open_dataset(root)


def test_one_form_is_a_class_like_any_other(tmp_path: Path) -> None:
    images(tmp_path / NFD, tmp_path / "ok")
    assert open_dataset(tmp_path).classes == (NFD, "ok")


def test_a_network_with_names_of_the_other_form_fits(tmp_path: Path) -> None:
    images(tmp_path / NFD, tmp_path / "ok")
    model = nn.Linear(3, 2)
    describe(model, ModelSpec("dddn", ("ok", NFC)))
    lines: list[str] = []
    progress = Silent()
    progress.say = lines.append  # type: ignore[method-assign]
    _, data = fit_to_data(model, open_dataset(tmp_path), tmp_path / "m.pt", progress)
    assert data.classes == ("ok", NFC)
    assert {item.path.parent.name for item in data.split("train") if item.label == 1} == {NFD}
    assert any("store the accents of 'Fläche' differently" in line for line in lines)
