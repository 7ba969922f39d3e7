from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from forked import Forks
from safetensors import safe_open

from cfp_cli.execution.pool import Pool
from cfp_cli.foundation.files import sha256


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    modules = ["torch._dynamo", "torch.distributed", "cfp_cli.runs.score", "cfp_cli.runs.shrink"]
    with Forks(tmp_path_factory.mktemp("output"), "cfp_cli.main:main", modules) as forks:
        yield forks


def torchrun(run: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # torchrun would read --run as the abbreviation of one of its own options, so CFP_RUN names the run directory.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CFP_RUN": str(run)}
    # Two processes need two GPUs, which few machines have.
    line = [*command, "-m", "cfp_cli", *map(str, arguments), "--device", "cpu"]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=240, check=False)


def tensors(run: Path) -> dict[str, np.ndarray]:
    with safe_open(run / "scores.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.parametrize("richness", ["explained-variance", "rank"])
def test_two_processes_score_as_one(
    cfp, forks: Forks, tmp_path: Path, own_model: Path, own_arch: str, images: Path, richness: str
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    line = ("score", own_model, images, "--arch", own_arch, "--images", 24, "--richness", richness)
    assert cfp(*line, "--run", one, "--device", "cpu").code == 0
    for done in forks.run([*line, "--run", two, "--device", "cpu"], 2):
        assert done.code == 0, done.err
    alone, together = tensors(one), tensors(two)
    assert alone.keys() == together.keys()
    # Covariances are sums over images, which two processes take in another order.
    exact = ("norms", "richness") if richness == "rank" else ("norms",)
    for name, value in alone.items():
        if name.startswith("tap/") and name.endswith(exact):
            np.testing.assert_array_equal(value, together[name], err_msg=name)
        else:
            # A forward pass of a last batch of another size may round the last bits of its maps differently.
            atol = 0 if richness == "rank" else 1e-9
            np.testing.assert_allclose(value, together[name], rtol=1e-6, atol=atol, err_msg=name)


@pytest.mark.slow
def test_two_processes_run_the_road_and_the_first_alone_prints(
    cfp, forks: Forks, tmp_path: Path, own_model: Path, own_arch: str, images: Path
) -> None:
    two = tmp_path / "two"
    done = torchrun(two, "score", own_model, images, "--arch", own_arch, "--images", 24, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 24
    assert cfp("prune", "--arch", own_arch, "--ratio", 0.5, "--run", two).code == 0
    options = ("--epochs", 1, "--views", 2, "--batch-size", 16, "--run", two, "--device", "cpu", "--json")
    first, second = forks.run(["finetune", "--arch", own_arch, "--teachers", own_model, own_model, *options], 2)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert json.loads(first.out)["epochs"] == 1
    assert second.out == ""
    records = json.loads((two / "run.json").read_text())["records"]
    assert [record["command"] for record in records] == ["score", "prune", "finetune"]


@pytest.mark.slow
def test_two_processes_share_the_candidates_of_shrink(
    cfp,
    forks: Forks,
    tmp_path: Path,
    vary: Callable[..., None],
    own_model: Path,
    own_arch: str,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two, model = tmp_path / "one", tmp_path / "two", tmp_path / "model.pt"
    vary(own_model, model, own_arch)
    assert cfp("score", model, images, "--arch", own_arch, "--images", 48, "--run", one).code == 0
    shutil.copytree(one, two)
    # Few networks are within the budget, and none passes.
    limits = ("--metric", "agreement", "--max-loss", 10, "--epochs", 1, "--views", 1)
    limits += ("--budget", "params<=380")
    line = ("shrink", model, images, "--arch", own_arch, *limits, "--teachers", model, "--json", "--device", "cpu")
    first, second = forks.run([*line, "--run", two], 2)
    assert (first.code, second.code) == (3, 3), first.err + second.err
    assert second.out == ""
    with monkeypatch.context() as patch:
        # One process tries two compressions at a time too, one after the other.
        patch.setattr(Pool, "size", 2)
        alone = cfp(*line, "--run", one)
    assert alone.code == 3, alone.err
    made = candidates(two)
    assert {trained for _, trained in made} == {False, True}
    assert candidates(one) == made
    looks = [[(each["params"], each["chosen"]) for each in json.loads(done.out)["frontier"]] for done in (first, alone)]
    assert looks[0] == looks[1]
    assert sha256(one / "shrunk.pt") == sha256(two / "shrunk.pt")
    records = [record["command"] for record in json.loads((two / "run.json").read_text())["records"]]
    assert records.count("finetune") >= sum(trained for _, trained in made)


def candidates(run: Path) -> dict[tuple[float, bool], object]:
    """Hashes of the networks and plans, and the predictions, of the stored candidates."""
    return {
        (each["compression"], each["trained"]): (
            each["compared"],
            [each["files"][name]["sha256"] for name in each["files"] if name != "history"],
        )
        for each in json.loads((run / "shrink.json").read_text())["candidates"]
    }
