"""A small run directory with every kind of file that cfp writes, and ways to rewrite each file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy
import torch
from small_network import ARCH

from cfp_cli.checkpoints.content_hash import content_hash
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.synthetic import generate
from cfp_cli.foundation.content_hash import KEY, hash_content
from cfp_cli.foundation.files import sha256
from cfp_cli.models.registry import create
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.runs.directory import Run
from cfp_cli.runs.finetune import run_finetune
from cfp_cli.runs.inputs import DataInput, ModelInput
from cfp_cli.runs.prune import run_prune
from cfp_cli.runs.score import ScoreOptions, run_score
from cfp_cli.scoring import scores as scores_module
from cfp_cli.training import state as state_module
from cfp_cli.training import teacher_cache as cache_module
from cfp_cli.training.options import TrainOptions

CPU = torch.device("cpu")
OPTIONS = TrainOptions.preset("student", epochs=1, batch_size=8, views=1, augment="none")


@dataclass(frozen=True)
class Files:
    """The folder of a run that is scored, pruned and fine-tuned, and what it was made from."""

    run: Path
    model: Path
    other: Path
    data: Path


def make_run(folder: Path) -> Files:
    """Make a run directory in a folder, beside two models and the images; within `small_architectures`."""
    data = generate(folder / "data", per_class=6, test_per_class=2, size=64, imbalance=1.0)
    classes = tuple(sorted(each.name for each in (data / "train").iterdir()))
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(folder / f"model{seed}.pt")
        save(models[-1], describe(create(ARCH, len(classes)), ModelSpec(ARCH, classes, input_size=(32, 32))))
    files = Files(folder / "run", *models, data)
    score(files, models[0])
    run_prune(Run.open(files.run), None, PruneOptions(ratio=0.5), device=CPU)
    run_finetune(Run.open(files.run), None, None, [ModelInput(models[0])], OPTIONS, device=CPU)
    return files


def score(files: Files, model: Path) -> None:
    run_score(Run.open(files.run), ModelInput(model), DataInput(files.data), ScoreOptions(images=12), device=CPU)


def rewrite_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the content of a JSON file, and give it a right hash again."""
    content = json.loads(path.read_text())
    content.pop(KEY, None)
    new = change(content)
    if isinstance(new, dict):
        new = {**new, KEY: hash_content(new)}
    path.write_text(json.dumps(new, indent=2))


def rewrite_scores(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change the facts and tensors of a score file in place, and give it a right hash again."""
    with safetensors.safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["cfp"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del facts[KEY]
    change(facts, tensors)
    facts[KEY] = scores_module._hash(facts, tensors)
    path.write_bytes(safetensors.numpy.save(tensors, {"cfp": json.dumps(facts)}))


def rewrite_checkpoint(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of a checkpoint in place, and give it a right hash again."""
    content = torch.load(path, weights_only=True)
    del content[KEY]
    change(content)
    facts = {name: value for name, value in content.items() if name != "state_dict"}
    content[KEY] = content_hash(facts, content["state_dict"])
    torch.save(content, path)


def rewrite_state(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of a training state in place, and give it a right hash again."""
    content = torch.load(path, weights_only=True)
    del content[KEY]
    change(content)
    content[KEY] = state_module._hash(content, path)
    torch.save(content, path)


def rewrite_table(path: Path, table: Any) -> None:
    """Write cached logits with a right hash."""
    cache_module._write(path, table)


def record_again(run: Path, name: str) -> None:
    """Record the current hash of an output of the run, as if its command had written what the file holds now."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        for record in content["records"]:
            if name in record["outputs"]:
                record["outputs"][name]["sha256"] = sha256(run / Path(record["outputs"][name]["path"]).name)
        return content

    rewrite_json(run / "run.json", change)
