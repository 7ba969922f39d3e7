"""The stored candidates of `cfp shrink`: found again if their files are intact, refused by name if damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cfp_cli.foundation.content_hash import KEY
from cfp_cli.foundation.errors import RunError
from cfp_cli.measuring.compared import Compared
from cfp_cli.runs.candidates import Candidate, Candidates
from cfp_cli.runs.records import output_files

LABELS = torch.arange(12) % 3
COMPARED = Compared.of(*(each.expand(2, -1) for each in (LABELS, LABELS.flip(0), LABELS)), ("a", "b", "c"))


def candidate(run: Path, compression: float = 8.0) -> Candidate:
    folder = run / "shrink" / f"{compression:g}x"
    folder.mkdir(parents=True, exist_ok=True)
    files = {"pruned": folder / "pruned.pt", "plan": folder / "plan.json"}
    for name, path in files.items():
        path.write_text(f"{name} {compression}")
    return Candidate("key", compression, False, 100, 1000, COMPARED, 1.5, output_files(**files))


def test_a_candidate_is_found_again_also_in_a_moved_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    added = candidate(run)
    stored = Candidates(run)
    stored.add(added)
    stored.add(candidate(run, 16.0))
    stored.add(replace(added, seconds=3.0))
    again = Candidates(run)
    found = again.find("key", 8.0, False)
    assert found == replace(added, seconds=3.0), "the last measurement counts"
    assert again.find("key", 9.0, False) is again.find("other", 8.0, False) is again.find("key", 8.0, True) is None
    moved = Candidates(Path(shutil.move(run, tmp_path / "moved")))
    assert moved.find("key", 8.0, False) == found
    assert moved.path(found, "plan").is_file()


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_candidate_without_its_files_is_measured_again(tmp_path: Path, harm: str) -> None:
    stored = Candidates(tmp_path)
    added = candidate(tmp_path)
    stored.add(added)
    path = stored.path(added, "pruned")
    if harm == "missing":
        path.unlink()
    else:
        path.write_text("other")
    assert Candidates(tmp_path).find("key", 8.0, False) is None


def test_a_damaged_file_is_refused_with_its_field(tmp_path: Path) -> None:
    Candidates(tmp_path).add(candidate(tmp_path))
    file = tmp_path / "shrink.json"
    content = json.loads(file.read_text())
    content["candidates"][0]["params"] = 7
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"shrink\.json is damaged"):
        Candidates(tmp_path)
    del content[KEY]
    for change, message in (
        ({"params": "many"}, r"candidates\[0\]\.params is 'many', not an integer; delete the file"),
        ({"compared": {**content["candidates"][0]["compared"], "views": 0}}, "views is 0"),
    ):
        file.write_text(json.dumps({**content, "candidates": [{**content["candidates"][0], **change}]}))
        with pytest.raises(RunError, match=message):
            Candidates(tmp_path)
    file.write_text(json.dumps({"format": "cfp-shrink/0", "other": content["candidates"]}))
    with pytest.raises(RunError, match="has format 'cfp-shrink/0', this version reads"):
        Candidates(tmp_path)
