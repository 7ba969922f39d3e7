"""Commands that start in the folder of the images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("layout", ["classes", "splits"])
def test_the_default_run_may_be_in_the_folder_of_the_images(
    cfp: Callable, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images / "train" if layout == "classes" else images, data)
    monkeypatch.chdir(data)
    for command in (("score", model, "."), ("prune", "--ratio", 0.3), ("eval", "cfp-run/pruned.pt", ".")):
        done = cfp(*command)
        assert done.code == 0, done.err
    label = next(path.name for path in sorted((images / "train").iterdir()))
    folder = label if layout == "classes" else f"train/{label}"
    refused = cfp("score", model, ".", "--run", folder)
    assert refused.code == 2
    assert f"{folder} is a folder of the images in .; choose another --run" in refused.err
