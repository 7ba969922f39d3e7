"""`--weights` takes another entry of a checkpoint, and the run remembers it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cfp_cli.checkpoints.load import load


def test_the_run_remembers_which_weights_were_taken(
    cfp, images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The run is the default, `cfp-run` in the current folder.
    monkeypatch.chdir(tmp_path)
    network = load(model)
    spec = network.spec
    state = {name: value.clone() for name, value in network.state_dict().items()}
    average = {name: value * 0.5 if value.is_floating_point() else value for name, value in state.items()}
    path = tmp_path / "both.pt"
    torch.save({"state_dict": state, "state_dict_ema": average, "classes": list(spec.classes)}, path)
    options = ("--arch", spec.arch, "--input-size", spec.input_size[0])
    said = cfp("inspect", path, *options)
    assert "takes the weights in 'state_dict_ema', a moving average" in said.err
    assert "--weights state_dict " in said.err
    done = cfp("score", path, images, *options, "--weights", "state_dict", "--images", 12)
    assert done.code == 0, done.err
    assert "moving average" not in done.err
    record = json.loads(Path("cfp-run/run.json").read_text())["records"][0]["inputs"]["model"]
    assert record["weights"] == "state_dict"
    pruned = cfp("prune", "--ratio", 0.5, "--arch", spec.arch)
    assert pruned.code == 0, pruned.err
    assert "moving average" not in pruned.err
    refused = cfp("inspect", path, *options, "--weights", "nothing")
    assert refused.code == 1
    assert "pass 'state_dict_ema', 'state_dict'" in refused.err
