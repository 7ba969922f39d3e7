"""Run every command and every piece of Python of the pages, in the order of the page, on tiny models."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from reading import PAGES, ROOT, blocks, inline, links, words
from small_resnet import small_resnet
from torchvision.models._api import BUILTIN_MODELS

from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.commands.cli import cli
from cfp_cli.main import main
from cfp_cli.models import vgg
from cfp_cli.models.registry import create

# Commands that install something, run this test suite, or have a test of their own.
ELSEWHERE = {
    "make demo",
    "make test",
    "make test-fast",
    "make fuzz",
    "pip install '.[export,report]'",
    "pip install '.[openvino]'",
    "CFP_RUN=cfp-run torchrun --nproc-per-node 2 -m cfp_cli finetune --teachers rl.pt cl.pt",
    "cfp demo",
    "cfp demo --run demo-run --json",
    "cfp data split elpv-dataset data/",
}
SHORT_TRAINING = ["--epochs", "1", "--batch-size", "16", "--views", "1", "--augment", "none"]
ONE_CORE = ["--threads", "1"]
# Options that make a command fast on one core; of a repeated option the last value counts.
SHORTER = {
    "train": [*SHORT_TRAINING, *ONE_CORE],
    "score": ["--images", "12", *ONE_CORE],
    "finetune": [*SHORT_TRAINING, *ONE_CORE],
    # All candidates pass without training, so none is fine-tuned.
    "shrink": ["--max-loss", "100", *ONE_CORE],
    "compare": [*SHORT_TRAINING, "--images", "12", "--seeds", "0", *ONE_CORE],
    "bench": ["--seconds", "0.01", "--no-onnx", "--no-openvino", *ONE_CORE],
    "report": ["--no-bench", *ONE_CORE],
    "prune": ONE_CORE,
    "eval": ONE_CORE,
    "predict": ONE_CORE,
}
# Commands that need another network: the file to write, its architecture, and whether to score it first.
OTHER_MODELS = {
    "cfp prune --ratio 0.9 --keep 'layer1.*' --round-to 8": ("model.pt", "torchvision:resnet18", True),
    "cfp prune --rates '[0.4]*5+[0.5]*9' --dry-run": ("model.pt", "vgg16_bn_gap", True),
    "cfp fuse cfp-run/finetuned.pt --out fused.pt": ("cfp-run/finetuned.pt", "repvgg_a0", False),
}
STORIES = [page for page in PAGES if page.name != "cli.md"]
EXAMPLES = [shown.text for shown in blocks(ROOT / "docs" / "cli.md") if shown.text not in ELSEWHERE]

Cfp = Callable[[str], None]


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the networks that the pages name by small ones with the same number of channel sets."""
    monkeypatch.setattr(vgg, "WIDTHS", ((8, 8), (8, 8), (8, 8, 8), (16, 16, 16), (16, 16, 16)))
    monkeypatch.setattr(vgg, "HIDDEN", 16)
    for name in ("resnet18", "resnet50"):
        monkeypatch.setitem(BUILTIN_MODELS, name, small_resnet)


@pytest.fixture
def cfp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cfp:
    """Run a shortened command line of a page and check that it succeeds."""

    def run(command: str) -> None:
        typed = words(command)
        more = list(SHORTER.get(typed[1], []))
        if "--input-size" in typed:
            more += ["--input-size", "32"]
        if "layer1.*" in typed:
            # The small network has a larger share of its parameters in layer1 than a ResNet.
            more += ["--ratio", "0.3", "--round-to", "1"]
        if typed[1:3] == ["data", "split"]:
            # It creates the folder that the other commands read.
            shutil.rmtree(typed[4])
        monkeypatch.setattr(sys, "argv", typed + more)
        with pytest.raises(SystemExit) as exited:
            main()
        printed = capsys.readouterr()
        assert not exited.value.code, f"`{command}` leaves with {exited.value.code}: {printed.err}"

    return run


@pytest.fixture
def folder(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the pages assume."""
    shutil.copytree(stock, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", STORIES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_can_be_followed(page: Path, folder: Path, cfp: Cfp) -> None:
    names: dict[str, object] = {"__name__": "page"}
    for shown in blocks(page):
        where = f"{page.name}:{shown.line}"
        if shown.kind == "python":
            short = re.sub(r"\bepochs=\d+", "epochs=1", shown.text)
            exec(compile("\n" * (shown.line - 1) + short, str(page), "exec"), names)
        elif shown.text in ELSEWHERE:
            continue
        elif shown.text.startswith("python "):
            # Benchmarks take hours, and generators have tests of their own.
            assert (ROOT / words(shown.text)[1]).is_file(), where
        else:
            assert shown.text.startswith("cfp "), f"{where} shows `{shown.text}`, which no test runs"
            cfp(shown.text)


@pytest.fixture(scope="session")
def finished(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory after the three commands of the README."""
    folder = tmp_path_factory.mktemp("finished")
    lines = (
        ["score", "model.pt", "data", *SHORTER["score"]],
        ["prune", "--ratio", "0.5"],
        ["finetune", "--teachers", "rl.pt", "cl.pt", *SHORTER["finetune"]],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(stock)
        for line in lines:
            patch.setattr(sys, "argv", ["cfp", *line, "--run", str(folder / "cfp-run"), "--quiet"])
            with pytest.raises(SystemExit) as exited:
                main()
            assert not exited.value.code, line
    return folder


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_reference_runs(example: str, finished: Path, folder: Path, cfp: Cfp) -> None:
    shutil.copytree(finished / "cfp-run", folder / "cfp-run")
    classes = tuple(sorted(folder.name for folder in (folder / "data" / "train").iterdir()))
    if "other-run" in example:
        shutil.copytree("cfp-run", "other-run")
        shutil.copy(next((folder / "data" / "train").rglob("*.png")), "scratch_17.png")
    if example in OTHER_MODELS:
        file, arch, scored = OTHER_MODELS[example]
        save(file, describe(create(arch, len(classes)), ModelSpec(arch, classes, input_size=(32, 32))))
        if scored:
            cfp("cfp score model.pt data/")
    cfp(example)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_running_text_exist(page: Path) -> None:
    for command in inline(page):
        typed = command.split()[1:]
        if typed[0] in ("COMMAND", "--help", "--version"):
            continue
        found: click.Command = cli
        while isinstance(found, click.Group):
            name = typed.pop(0)
            assert name in found.commands, f"`{command}` is not a command"
            found = found.commands[name]
        known = {flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        asked = {word.split("=")[0] for word in typed if word.startswith("--")}
        assert asked <= known | {"--help"}, f"`{command}` has unknown options"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []
