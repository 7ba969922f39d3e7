"""Names of the user are printed as they are: not as markup, not as emoji, and never as control characters."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cfp_cli.commands.cli import cli
from cfp_cli.commands.console import Console

# In markup, "[/]" closes a style and crashes without one, "[red]" vanishes and ":fire:" becomes an emoji.
MARKUP = "[red] [/] :fire:"
ESCAPE = "\x1b[31m"
SHOWN_ESCAPE = "\N{SYMBOL FOR ESCAPE}[31m"


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A wide terminal, so that no table breaks a name, and an empty folder with a hostile name to work in."""
    monkeypatch.setenv("COLUMNS", "1000")
    folder = tmp_path / "[blue] :smile: [\\]"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def data(images: Path, wide: Path) -> Path:
    """Images whose class names are hostile."""
    folder = shutil.copytree(images, wide / f"data {MARKUP.replace('/', ':')}")
    for split in ("train", "test"):
        for index, name in enumerate(sorted(path.name for path in (folder / split).iterdir())):
            (folder / split / name).rename(folder / split / f"[red] :fire: {ESCAPE} {index}")
    return folder


def test_every_command_prints_names_as_they_are(cfp, data: Path, wide: Path, arch: str, own_arch: str) -> None:
    tested = set()

    def run(command: str, *arguments: object, shows: object = "", code: int = 0) -> None:
        tested.add(command)
        done = cfp(*command.split(), *arguments)
        assert done.code == code, done.err
        assert "\x1b" not in done.out + done.err
        assert str(shows) in done.out + done.err, done.out + done.err

    name = f"[red] :fire: {SHOWN_ESCAPE} 0"
    fast = ("--epochs", 1, "--views", 1, "--batch-size", 16)
    teacher = "[bold] :star: t.pt"
    run("train", data, "--arch", arch, "--input-size", 32, "--out", teacher, *fast, shows=name)
    run("train", data, "--arch", arch, "--input-size", 32, "--out", teacher, *fast, shows=f"written {teacher}")
    run("eval", teacher, data, shows=name)
    run("predict", teacher, data, shows=name)
    run("eval", teacher, data, shows=f"{teacher} on test")
    run("score", teacher, data, "--images", 24, "--run", "[i] run", "-v", shows=f"{data.name}: 6 classes")
    run("prune", "--ratio", 0.5, "--run", "[i] run", shows="written [i] run/pruned.pt")
    run("finetune", "--teachers", teacher, *fast, "--run", "[i] run", shows="written [i] run/finetuned.pt")
    run("bench", teacher, "--no-onnx", "--no-openvino", "--seconds", 0.01, shows=teacher)
    run("export", "--format", "pt2", "--out", "[b] :star: s.pt2", "--run", "[i] run", shows="written [b] :star: s.pt2")
    run("report", "[i] run", "--no-bench", shows="written [i] run/report.html")
    run("report", "[i] run", "--no-bench", "--image", "[b] :star:", shows="[b] :star: cannot be read", code=1)
    few = ("--max-loss", 100, "--no-finetune", "--budget", "params<=1k")
    run("shrink", teacher, data, *few, "--run", "[s] run", shows="written [s] run/shrunk.pt")
    run("fuse", "[b] :star: x.pt", "--out", "f.pt", shows="[b] :star: x.pt", code=1)
    run("compare", data, "--teachers", teacher, "--methods", "l1", "--seeds", 0, "--out", "[u] c", *fast, shows="[u] c")
    run("data split", "[b] :star: [/]", "out", "--layout", "neu", shows="[b] :star: [/]", code=1)
    run("demo", "--run", teacher, shows=teacher, code=2)
    net = Path(f"[i] :star: {ESCAPE}.py")
    shutil.copy(own_arch.partition(":")[0], net)
    run("train", data, "--arch", f"{net}:tiny", "--input-size", 32, "--out", "own.pt", *fast)
    run("inspect", "own.pt", "--arch", f"{net}:tiny", shows=f"[i] :star: {SHOWN_ESCAPE}.py:tiny: ")
    run("bogus :fire: [/]".replace(" ", ""), shows="bogus:fire:[/]", code=2)
    commands = {name for name in cli.commands if name != "data"} | {"data split"}
    # `cfp completion` prints nothing of the user's.
    assert commands - tested == {"completion"}


@pytest.mark.parametrize("hostile", [MARKUP, ESCAPE, "\x07\x9b31m", "\u202egnp", "\udc80", "\r", "\x00"])
def test_every_renderable_is_plain_text(hostile: str, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    table = Table(f"h {hostile}", title=f"t {hostile}", caption=f"c {hostile}")
    table.add_row(f"cell {hostile}")
    tree = Tree(f"tree {hostile}")
    tree.add(Text.assemble((f"leaf {hostile}", "bold")))
    console = Console()
    console.result({}, hostile, Text(hostile), table, tree)
    console.say(hostile)
    console.error(f"text {hostile} text")
    for _ in console.track([1], hostile):
        pass
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert not any((ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\udc80" for c in shown)
    if hostile == MARKUP:
        assert captured.out.count(MARKUP) == 8
        assert captured.err.count(MARKUP) == 2


def test_an_encoding_without_a_character(cfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stderr", stream)
    assert cfp("inspect", tmp_path / "größe.pt").code == 1
    stream.flush()
    assert b"gr\\xf6\\xdfe.pt" in stream.buffer.getvalue()  # type: ignore[attr-defined]
