"""No file of a run that was damaged, or that belongs to something else, changes a result."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_files import CPU, OPTIONS, Files, make_run, record_again, rewrite_json, rewrite_scores, score
from small_network import small_architectures

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.foundation.content_hash import KEY
from cfp_cli.foundation.errors import CfpError, RunError
from cfp_cli.foundation.progress import Silent
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.prune import prune
from cfp_cli.runs.directory import Run
from cfp_cli.runs.finetune import run_finetune
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.outputs import newest_model
from cfp_cli.runs.prune import plan_prune, run_prune
from cfp_cli.runs.report import run_report
from cfp_cli.scoring.scores import Scores
from cfp_cli.training.state import OtherRunError, read_state

HALF = PruneOptions(ratio=0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with small_architectures():
        yield make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def files(made: Files, tmp_path: Path) -> Files:
    """A copy of the run, whose records name the copied files."""
    copy = Files(Path(shutil.copytree(made.run, tmp_path / "run")), made.model, made.other, made.data)
    path = copy.run / "run.json"
    rewrite_json(path, lambda content: json.loads(json.dumps(content).replace(str(made.run), str(copy.run))))
    return copy


def plan_of(files: Files) -> Plan:
    return plan_prune(Run.open(files.run), None, HALF, device=CPU)


def read_last(path: Path) -> object:
    try:
        return read_state(path, {})
    except OtherRunError:
        return "whole"


def scores_content(path: Path) -> object:
    scores = Scores.load(path)
    return repr(scores), [each.richness.tobytes() for each in scores.sets]


READERS: dict[str, Callable[[Path], object]] = {
    "run.json": lambda path: Run.open(path.parent).records,
    "plan.json": Plan.load,
    "scores.safetensors": scores_content,
    "last.pt": read_last,
    "pruned.pt": lambda path: fingerprint(load(path)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_refused_by_name_or_changes_nothing(files: Files, name: str) -> None:
    path, read = files.run / name, READERS[name]
    whole, content = read(path), path.read_bytes()
    draw = random.Random(0)
    refusals = []
    for _ in range(30):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            assert read(path) == whole
        except CfpError as error:
            refusals.append(str(error))
    assert len(refusals) > 8
    assert all(name in message and "\n" not in message for message in refusals)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("run.json", b'"seed": 0', b'"seed": 1'),
        ("plan.json", b'"params_before": ', b'"params_before": 1'),
        ("scores.safetensors", b'images\\": 12', b'images\\": 13'),
    ],
)
def test_a_damaged_file_is_called_damaged(files: Files, name: str, before: bytes, after: bytes) -> None:
    path = files.run / name
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    with pytest.raises(CfpError, match="is damaged: its content does not match its hash; "):
        READERS[name](path)


def test_a_damaged_training_state_is_called_damaged(files: Files) -> None:
    content = torch.load(files.run / "last.pt", weights_only=True)
    next(iter(content["model"].values())).add_(1)
    torch.save(content, files.run / "last.pt")
    with pytest.raises(CfpError, match="is damaged: its content does not match its hash; delete it to start anew"):
        read_last(files.run / "last.pt")


def test_an_edited_plan_is_used_once_its_hash_is_deleted(files: Files) -> None:
    path = files.run / "plan.json"
    content = json.loads(path.read_text())
    edited = next(each for each in content["sets"] if not each["frozen"])
    edited["kept"] = edited["kept"][:-1]
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"if you edited it, delete its field {KEY}"):
        Plan.load(path)
    del content[KEY]
    path.write_text(json.dumps(content))
    kept = {each.name: list(each.kept) for each in Plan.load(path).sets}
    assert kept[edited["name"]] == edited["kept"]


@pytest.mark.parametrize("moved", [False, True])
def test_a_copied_or_moved_run_uses_its_own_files(files: Files, moved: bool) -> None:
    copy = replace(files, run=files.run.with_name("copy"))
    (shutil.move if moved else shutil.copytree)(files.run, copy.run)
    assert newest_model(Run.open(copy.run)).path == (copy.run / "finetuned.pt").resolve()
    run_prune(Run.open(copy.run), None, PruneOptions(ratio=0.4), device=CPU)
    assert newest_model(Run.open(copy.run)).path == (copy.run / "pruned.pt").resolve()
    if not moved:
        assert newest_model(Run.open(files.run)).path == (files.run / "finetuned.pt").resolve()


def test_scores_of_a_killed_command_are_not_used(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cfp score` with another model is killed after it wrote the scores and before it recorded them."""

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "add", kill)
        with pytest.raises(Killed):
            score(files, files.other)
    for use in (lambda: plan_of(files), lambda: run_report(Run.open(files.run), bench=False, device=CPU)):
        with pytest.raises(RunError, match=r"is not what `cfp score` wrote .*; run `cfp score` again"):
            use()
    score(files, files.other)
    run_prune(Run.open(files.run), ModelInput(files.other), HALF, device=CPU)


def reverse(_: object, tensors: dict[str, np.ndarray]) -> None:
    for name in tensors:
        if name.startswith("set/") and name.endswith("richness"):
            tensors[name] = tensors[name][::-1].copy()


def test_changed_scores_are_refused_by_the_record(files: Files) -> None:
    rewrite_scores(files.run / "scores.safetensors", reverse)
    with pytest.raises(RunError, match="is not what `cfp score` wrote"):
        plan_of(files)


def first(tensors: dict[str, np.ndarray], kind: str) -> str:
    return next(name for name in tensors if name.endswith(kind))


def spoil(kind: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., None]:
    def spoiled(_: object, tensors: dict[str, np.ndarray]) -> None:
        name = first(tensors, kind)
        tensors[name] = change(tensors[name].copy())

    return spoiled


@pytest.mark.parametrize("kind", ["norms", "richness", "linkage", "distance", "norm"])
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value * np.nan,
        lambda value: value + np.inf,
        lambda value: value[:-1],
        lambda value: value[None],
        lambda value: value.astype(np.float16),
    ],
    ids=["nan", "inf", "short", "deep", "type"],
)
def test_wrong_tensors_are_refused_by_name(files: Files, kind: str, change: Callable[..., np.ndarray]) -> None:
    path = files.run / "scores.safetensors"
    rewrite_scores(path, spoil(f"/{kind}", change))
    record_again(files.run, "scores")
    with pytest.raises(RunError, match=r"scores\.safetensors: tensor '(tap|set)/.*; run `cfp score` again"):
        plan_of(files)


def test_scores_of_another_network_are_refused_in_python(files: Files) -> None:
    scores = Scores.load(files.run / "scores.safetensors")
    with pytest.raises(RunError, match="scores belong to a network with other weights; run `cfp score`"):
        prune(load(files.other), scores, ratio=0.5)
    pruned, _ = prune(load(files.model), scores, ratio=0.5)
    assert sum(each.numel() for each in pruned.parameters()) > 0


def test_a_changed_history_is_not_shown(files: Files) -> None:
    path = files.run / "history.csv"
    path.write_text(path.read_text().replace("\n0,", "\n0,9"))
    with pytest.raises(RunError, match=r"history.csv .* is not what `cfp finetune` wrote"):
        run_report(Run.open(files.run), bench=False, device=CPU)


def caches(files: Files) -> dict[tuple[int, ...], Path]:
    """The cached logits of teachers on training views and on validation images, by the shape of the table."""
    return {np.load(path).shape: path for path in sorted((files.run / "cache").glob("*.npy"))}


def test_permuted_logits_of_a_teacher_are_computed_again(files: Files) -> None:
    weights = fingerprint(load(files.run / "finetuned.pt"))
    assert len(caches(files)) == 2
    for cache in caches(files).values():
        whole, table = cache.read_bytes(), np.load(cache)
        with cache.open("wb") as file:
            np.save(file, table[::-1])
            file.write(whole[-32:])
        said: list[str] = []

        class Listening(Silent):
            def say(self, message: str, said: list[str] = said) -> None:
                said.append(message)

        run = Run.open(files.run)
        run_finetune(run, None, None, [ModelInput(files.model)], OPTIONS, device=CPU, progress=Listening())
        assert any(f"{cache} is damaged: its content does not match its hash" in text for text in said)
        assert cache.read_bytes() == whole
        assert fingerprint(load(files.run / "finetuned.pt")) == weights


def test_the_logits_of_one_teacher_are_not_those_of_another(files: Files) -> None:
    own = caches(files)
    whole = {shape: path.read_bytes() for shape, path in own.items()}
    for path in own.values():
        path.rename(path.with_suffix(".own"))
    run_finetune(Run.open(files.run), None, None, [ModelInput(files.other)], OPTIONS, device=CPU)
    added = caches(files)
    assert set(added) == set(own)
    for shape, path in own.items():
        path.with_suffix(".own").unlink()
        assert path != added[shape]
        path.write_bytes(added[shape].read_bytes())
    run_finetune(Run.open(files.run), None, None, [ModelInput(files.model)], OPTIONS, device=CPU)
    assert {shape: path.read_bytes() for shape, path in own.items()} == whole


def test_an_output_without_a_record_of_it_is_refused(files: Files) -> None:
    def forget(content: dict) -> dict:
        content["records"][0]["outputs"] = {}
        return content

    rewrite_json(files.run / "run.json", forget)
    with pytest.raises(RunError, match=r"run\.json does not name the scores that `cfp score` wrote"):
        plan_of(files)
