"""No command runs code or loads a pickle because a file names it: only `--arch` and `--unsafe-pickle` allow that."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.foundation.content_hash import KEY
from cfp_cli.models.registry import create

NET = """
import pathlib
from torch import nn

pathlib.Path(__file__).with_name("imported").touch()

def tiny(num_classes):
    def block(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
    return nn.Sequential(block(3, 24), block(24, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes))
"""
TRAINING = ("--epochs", 1, "--batch-size", 16, "--views", 1, "--augment", "none", "-q")


def test_every_command_that_loads_a_model_asks_for_the_arch(
    cfp, images: Path, classes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Timing other runtimes takes time and has tests of its own.
    monkeypatch.setattr("cfp_cli.exporting.benchmark.is_available", lambda _: False)
    Path("net.py").write_text(NET)
    arch, mark = "net.py:tiny", tmp_path / "imported"
    torch.manual_seed(0)
    save("m.pt", create(arch, len(classes)), ModelSpec(arch, classes, input_size=(32, 32)))
    # In the order of the pipeline; commands without a model take the one that the run directory names.
    commands = {
        "inspect": ("m.pt",),
        "eval": ("m.pt", images),
        "predict": ("m.pt", images / "test"),
        "bench": ("m.pt", "--seconds", 0.01),
        "fuse": ("m.pt", "--out", "fused.pt"),
        "train": (images, "--init", "m.pt", "--out", "t.pt", *TRAINING),
        "score": ("m.pt", images, "--images", 12),
        "prune": ("--ratio", 0.5),
        "finetune": ("--teachers", "m.pt", *TRAINING),
        "export": ("--format", "pt2", "--out", "small.pt2"),
        "report": ("--no-bench",),
        "compare": (images, "--teachers", "m.pt", "--methods", "l1", "--ratios", 0.5, "--seeds", 0, *TRAINING),
    }
    for command, arguments in commands.items():
        mark.unlink(missing_ok=True)
        refused = cfp(command, *arguments)
        assert refused.code == 1, (command, refused.err)
        assert f"names the Python code '{arch}'" in refused.err, command
        assert f"pass --arch {arch} if you trust that code" in refused.err, command
        assert not mark.exists(), command
        allowed = cfp(command, *arguments, "--arch", arch)
        if command == "fuse":
            assert "no RepVGG training block" in allowed.err
        else:
            assert allowed.code == 0, (command, allowed.err)
        assert mark.exists(), command


def test_a_run_directory_does_not_allow_pickles(cfp, scored: Path, model: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (scored / "unpickled",))

    path = scored / "model.pt"
    torch.save({"state_dict": Payload()}, path)
    record = json.loads((scored / "run.json").read_text())
    del record[KEY]
    recorded = record["records"][0]["inputs"]["model"]
    recorded |= {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "unsafe_pickle": True}
    (scored / "run.json").write_text(json.dumps(record))
    for command in (("prune", "--ratio", 0.5), ("prune", path, "--ratio", 0.5), ("report", "--no-bench")):
        done = cfp(*command)
        assert done.code == 1
        assert "pass --unsafe-pickle if you trust the file" in done.err
        assert not (scored / "unpickled").exists()
