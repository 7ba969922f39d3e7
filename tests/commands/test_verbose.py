from __future__ import annotations

import logging
from pathlib import Path

import pytest


def test_verbose_prints_details_and_quiet_does_not(cfp, tmp_path: Path, model: Path, images: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    score = ("score", model, images, "--images", 24, "--threads", 1, "--device", "cpu")
    details = cfp(*score, "-v").err
    for words in (
        "torch ",
        "device cpu, 1 CPU thread",
        f"read {model}: ",
        f"read {images}: 6 classes",
        "wrote cfp-run/scores.safetensors, ",
        "wrote cfp-run/run.json, ",
        " x batch in ",
        "finished in ",
    ):
        assert words in details, details
    assert cfp(*score).err == ""
    assert cfp(*score, "-v", "-q").err == ""


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "MODEL", "DATA"),
        ("predict", "MODEL", "DATA"),
        ("bench", "MODEL", "--no-onnx", "--no-openvino", "--seconds", 0.01),
        ("inspect", "MODEL"),
        ("export", "MODEL", "--format", "pt2", "--out", "m.pt2"),
        ("train", "DATA", "--init", "MODEL", "--epochs", 1, "--views", 1, "--out", "t.pt"),
        ("prune", "--ratio", 0.5),
        ("report", "--no-bench"),
    ],
)
def test_verbose_prints_details_on_every_command(cfp, scored: Path, model: Path, images: Path, command) -> None:
    paths = {"MODEL": model, "DATA": images}
    done = cfp(*(paths.get(word, word) for word in command), "-v", "--json")
    assert done.code == 0, done.err
    assert done.json is not None
    for words in ("torch ", f"read {model}: ", "finished in "):
        assert words in done.err, done.err


def test_the_log_is_silent_afterwards(cfp, model: Path) -> None:
    assert cfp("inspect", model, "-v").code == 0
    logger = logging.getLogger("cfp_cli")
    assert logger.handlers == []
    assert logger.getEffectiveLevel() == logging.WARNING
