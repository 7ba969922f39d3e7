"""The commands that a run without labels names as the next ones work, one after another."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from cfp_cli.commands.export import export_table
from cfp_cli.models.registry import create

Cfp = Callable[..., Any]

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.maps = nn.Conv2d(3, 12, 3, 1, 1), nn.Conv2d(12, 16, 3, 1, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x):
        y = self.maps(self.b(self.a(x).relu()).relu())
        return y if POOLED is None else y.mean((2, 3), keepdim=True).flatten(2)

def factory():
    return Net()
"""
# More options of each command, so that the test is fast.
FAST = {"finetune": ["--epochs", "1", "--views", "1"], "bench": ["--seconds", "0.01", "--no-onnx", "--no-openvino"]}


def following(result: Any) -> list[str] | None:
    """The arguments of the command that a result names as the next one; None if it names none."""
    assert result.code == 0, result.err
    lines = [line for line in result.out.splitlines() if line.startswith("next: ")]
    assert len(lines) <= 1
    return shlex.split(lines[0])[2:] if lines else None


@pytest.mark.parametrize(
    ("maps", "commands"),
    [
        (True, ["prune", "finetune", "eval", "export", "bench"]),
        (False, ["prune", "finetune", "export", "bench"]),
    ],
)
def test_each_next_command_works(
    maps: bool, commands: list[str], cfp: Cfp, images: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for index, path in enumerate(sorted(images.rglob("*.png"))[:24]):
        with Image.open(path) as image:
            image.convert("RGB").save(f"data/images/{index}.png")
            Image.new("L", image.size, index % 3).save(f"data/masks/{index}.png")
    Path("net.py").write_text(f"POOLED = {None if maps else 1}\n{NET}")
    torch.manual_seed(0)
    torch.save(create("net.py:factory", 0).state_dict(), "net.pth")
    arguments: list[str] | None = ["score", "net.pth", "data", "--arch", "net.py:factory", "--input-size", "16"]
    result, seen = cfp(*arguments), []
    assert "has no val and no test; a seeded choice of its images is used: 4 for val and 5 for test" in result.err
    assert ("only `cfp eval` reads them" in result.err, "ignored" in result.err) == (True, False)
    assert "--normalise none" in result.err
    while (arguments := following(result)) is not None:
        seen.append(arguments[0])
        if arguments[0] == "prune":
            arguments[arguments.index("0.95")] = "0.5"
        result = cfp(*arguments, *FAST.get(arguments[0], []))
    assert seen == commands


def exported(**facts: object) -> str:
    """The table of an exported file, as one line."""
    report = SimpleNamespace(format="onnx", precision="float32", parameters=10, bytes=40, overhead=-1e-5)
    figures = {"images": 1, "samples": "given", "top1_agreement": None, "max_relative_error": 0.0}
    missing = ("float64_error", "checkpoint_float64_error", "accuracy_before", "macro_f1_before")
    vars(report).update(figures, **dict.fromkeys((*missing, "quantiser", "float32_layers", "layers")))
    vars(report).update(facts)
    columns = export_table(report).columns  # type: ignore[arg-type]
    return " ".join(f"{name}: {value}" for name, value in zip(columns[0].cells, columns[1].cells, strict=True))


def test_a_file_as_large_as_its_weights() -> None:
    assert "file: 40 bytes, as many as the weights alone" in exported()


@pytest.mark.parametrize(("count", "text"), [(3, "layers in float32: the first 3 of 53"), (0, None), (None, None)])
def test_layers_that_stay_in_float32_are_said(count: int | None, text: str | None) -> None:
    table = exported(quantiser="nncf", float32_layers=count, layers=53)
    assert (text in table) if text else "in float32" not in table
