"""Accuracy against compression: this project's criterion beside the usual ones, and the parts of the method taken away.

    python benchmarks/compression.py run EXPERIMENT --data DATA --teachers RL.pt [CL.pt] [--threads 2] [--folder FOLDER]
    python benchmarks/compression.py page      # writes docs/compression.md and its plots

`run` types one `cfp compare` line, so that anybody can do the same on other images; it may be killed and goes on where
it was. Its rows go to `results/compression-EXPERIMENT.csv`. Networks train for hours: run it in the
background.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import paired
from plot import Axis, line_plot

from cfp_cli.comparing.grid import Comparison, Summary, read_rows, summaries, write_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Experiment:
    """One `cfp compare` line.

    Attributes:
        title: of its section.
        arch: architecture of the teachers.
        ratios, methods, seeds, epochs, views: as the command takes them; no epochs stand for no fine-tuning.
        teachers: the network that is pruned first.
        options: further ones of the command.
    """

    title: str
    arch: str
    ratios: tuple[float, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 40
    views: int = 4
    teachers: tuple[str, ...] = ("rl.pt", "cl.pt")
    options: tuple[str, ...] = ()


VGG_39X, VGG_100X = 0.97436, 0.99
RESNET_59X, RESNET_150X = 0.98305, 0.99333
OTHERS = ("cfp-reference", "hrank", "similarity", "random", "l1", "l2", "fpgm", "taylor", "group-norm")
OTHERS_TRAINED = (*OTHERS, "random-redundancy", "scratch")
OTHERS_SLICED = (*OTHERS_TRAINED, "cfp-rank-uniform", "hrank-redundancy", "l1-redundancy")
PARTS = ("cfp-rank-two", "cfp-effective-rank", "cfp-entropy")
OURS = ("cfp", "cfp-rank", "cfp-no-clusters")
FEW = ("cfp", "random-redundancy", "l1")
# Before feature maps were ranked by the variance that they explain.
FEW_RANK = ("cfp-rank", "random-redundancy", "l1")
USUAL = (*FEW, "group-norm")
VGG = "vgg16_bn_gap"
RESNET = "torchvision:resnet50"
# Pruned networks begin with the weights that slicing left; these were run before layers were fitted.
SLICED = ("--no-reconstruct",)
BRIEF = ("--ema", "0.99")
BF16 = (*BRIEF, "--amp", "bf16")
LONG = ("--ema", "0.995")
RARE = ("--select", "macro_f1")
NEU_VGG = Experiment("NEU-CLS, VGG-16, 30 epochs", VGG, (VGG_39X,), (*USUAL, "cfp-rank"), epochs=30, options=BF16)
NEU_RESNET = Experiment("NEU-CLS, ResNet-50, 30 epochs", RESNET, (RESNET_59X,), USUAL, epochs=30, options=BF16)
XSDD_VGG = Experiment("X-SDD, VGG-16, 30 epochs", VGG, (VGG_39X,), FEW, epochs=30, options=(*BF16, *RARE))
NEU_VGG_SIX = replace(
    NEU_VGG,
    title="NEU-CLS, VGG-16, 40 epochs of six views",
    ratios=(VGG_39X, VGG_100X),
    methods=("cfp",),
    epochs=40,
    views=6,
    options=(*BF16, "--augment", "strong"),
)
ELPV_VGG = replace(XSDD_VGG, title="ELPV, VGG-16, 30 epochs")
NEU_VGG_LONG = Experiment(
    "NEU-CLS, VGG-16, 150 epochs",
    VGG,
    (VGG_39X,),
    ("cfp-rank",),
    epochs=150,
    views=12,
    options=(*LONG, "--augment", "strong"),
)


def untrained(each: Experiment, **changes: Any) -> Experiment:
    """The same without fine-tuning."""
    title = each.title.rpartition(", ")[0] + ", no training"
    return replace(each, **{"title": title, "epochs": 0, "options": (), **changes})


def hundred(each: Experiment, with_whom: str = "") -> Experiment:
    """The same for 100 epochs of twelve views, chosen by macro-F1."""
    title = f"{each.title.rpartition(', ')[0]}, 100 epochs of twelve views{with_whom}"
    return replace(each, title=title, epochs=100, views=12, options=(*LONG, "--amp", "bf16", *RARE))


def sliced(each: Experiment, **changes: Any) -> Experiment:
    """The same without reconstruction."""
    made = replace(each, **changes)
    return replace(made, title=f"{made.title}, not reconstructed", options=(*made.options, *SLICED))


EXPERIMENTS = {
    "neu-vgg16-untrained": untrained(NEU_VGG, methods=(*OURS, *OTHERS, "random-redundancy")),
    "neu-resnet50-untrained": untrained(NEU_RESNET, methods=(*OURS, *USUAL[1:])),
    "neu-vgg16-untrained-100x": untrained(
        NEU_VGG, title="NEU-CLS, VGG-16, 100x, no training", ratios=(VGG_100X,), methods=(*OURS, *FEW[1:])
    ),
    "neu-resnet50-untrained-150x": untrained(
        NEU_RESNET, title="NEU-CLS, ResNet-50, 150x, no training", ratios=(RESNET_150X,), methods=(*FEW, "cfp-rank")
    ),
    "neu-vgg16-untrained-sliced": sliced(untrained(NEU_VGG, methods=FEW_RANK)),
    "neu-resnet50-untrained-sliced": sliced(untrained(NEU_RESNET, methods=FEW_RANK)),
    "neu-vgg16": NEU_VGG,
    "neu-vgg16-six-views": NEU_VGG_SIX,
    "neu-vgg16-six-views-second": replace(
        NEU_VGG_SIX,
        title=f"{NEU_VGG_SIX.title}, second class-balanced teacher",
        methods=("cfp", "cfp-round-8"),
    ),
    "neu-vgg16-150": replace(
        NEU_VGG_LONG,
        title="NEU-CLS, VGG-16, 150 epochs of twelve views",
        methods=("cfp",),
        options=(*NEU_VGG_LONG.options, "--amp", "bf16"),
    ),
    "neu-resnet50": NEU_RESNET,
    "neu-resnet50-second": replace(NEU_RESNET, title="NEU-CLS, ResNet-50, 30 epochs, second pair of teachers"),
    "xsdd-vgg16": XSDD_VGG,
    "xsdd-vgg16-steps": replace(XSDD_VGG, title="X-SDD, VGG-16, 30 epochs, in three steps", methods=("cfp-steps",)),
    "xsdd-vgg16-one-teacher": replace(
        XSDD_VGG, title="X-SDD, VGG-16, 30 epochs, representation teacher alone", methods=("cfp",), teachers=("rl.pt",)
    ),
    "xsdd-vgg16-classifier-teacher": replace(
        XSDD_VGG, title="X-SDD, VGG-16, 30 epochs, classifier teacher alone", methods=("cfp",), teachers=("cl.pt",)
    ),
    "xsdd-vgg16-labels": replace(
        XSDD_VGG,
        title="X-SDD, VGG-16, 30 epochs, with a label term",
        methods=("cfp",),
        options=(*XSDD_VGG.options, "--label-weight", "0.1"),
    ),
    "xsdd-tail-vgg16": Experiment(
        "X-SDD with a long tail, VGG-16, 30 epochs",
        VGG,
        (VGG_39X,),
        FEW,
        epochs=30,
        options=(*BF16, *RARE),
    ),
    "neu-dddn": Experiment("NEU-CLS, DDDN, 30 epochs", "dddn", (0.9,), FEW, epochs=30, options=BF16),
    "neu-mobilenetv2": Experiment(
        "NEU-CLS, MobileNetV2, 30 epochs", "torchvision:mobilenet_v2", (0.9,), FEW, epochs=30, options=BRIEF
    ),
    "neu-repvgg": Experiment("NEU-CLS, RepVGG-A0, 30 epochs", "repvgg_a0", (0.95,), FEW, epochs=30, options=BF16),
    "elpv-vgg16": ELPV_VGG,
    **{
        f"elpv-vgg16-100-{pair}": hundred(ELPV_VGG, f", {number} pair of teachers")
        for pair, number in enumerate(("first", "second", "third"))
    },
    "xsdd-vgg16-100": hundred(XSDD_VGG),
    "neu-resnet50-120": replace(
        NEU_RESNET,
        title="NEU-CLS, ResNet-50, 120 epochs of twelve views",
        ratios=(RESNET_59X, RESNET_150X),
        methods=("cfp",),
        epochs=120,
        views=12,
        options=(*LONG, "--amp", "bf16"),
    ),
    "neu-resnet50-untrained-criteria": untrained(
        NEU_RESNET,
        title="NEU-CLS, ResNet-50, no training, all criteria",
        ratios=(RESNET_59X, RESNET_150X),
        methods=("cfp-rank", *OTHERS, "random-redundancy"),
    ),
    "neu-vgg16-criteria": replace(
        NEU_VGG, title="NEU-CLS, VGG-16, 30 epochs, all criteria", methods=("cfp-rank", *OTHERS_TRAINED)
    ),
    "neu-vgg16-round-8": replace(
        NEU_VGG_LONG,
        title="NEU-CLS, VGG-16, 60 epochs, counts in multiples of eight",
        methods=("cfp-rank-round-8",),
        seeds=(3, 4, 5),
        epochs=60,
    ),
    "neu-vgg16-long": sliced(NEU_VGG_LONG),
    "neu-vgg16-fresh": sliced(
        NEU_VGG_LONG, title="NEU-CLS, VGG-16, 150 epochs, fresh seeds", ratios=(VGG_39X, VGG_100X), seeds=(3, 4, 5)
    ),
    "xsdd-vgg16-long": sliced(
        XSDD_VGG,
        title="X-SDD, VGG-16, 100 epochs",
        methods=("cfp-rank",),
        epochs=100,
        views=12,
        options=(*LONG, *RARE),
    ),
    "neu-resnet50-300": sliced(
        NEU_RESNET,
        title="NEU-CLS, ResNet-50, 300 epochs",
        ratios=(RESNET_59X, RESNET_150X),
        methods=("cfp-rank",),
        epochs=300,
        views=24,
        options=LONG,
    ),
    "neu-resnet50-long": sliced(
        NEU_RESNET,
        title="NEU-CLS, ResNet-50, 150 epochs",
        methods=("cfp-rank",),
        seeds=(0, 1),
        epochs=150,
        views=12,
        options=LONG,
    ),
    "neu-resnet50-four-views": sliced(
        NEU_RESNET,
        title="NEU-CLS, ResNet-50, 100 epochs of four views",
        methods=("cfp-rank",),
        seeds=(0, 1),
        epochs=100,
        options=BRIEF,
    ),
    "neu-resnet50-sliced": sliced(NEU_RESNET, methods=("cfp-rank", *OTHERS_SLICED), options=BRIEF),
    "xsdd-vgg16-sliced": sliced(XSDD_VGG, methods=("cfp-rank", *OTHERS_SLICED, *PARTS)),
}


def command(name: str, data: Path, teachers: list[Path], folder: Path, threads: int) -> list[str]:
    """The line that a user would type."""
    each = EXPERIMENTS[name]
    return [
        *("cfp", "compare", str(data), "--teachers", *map(str, teachers), "--arch", each.arch),
        *("--ratios", *(f"{ratio:g}" for ratio in each.ratios), "--methods", *each.methods),
        *("--seeds", *map(str, each.seeds)),
        *(("--epochs", str(each.epochs), "--views", str(each.views)) if each.epochs else ("--no-finetune",)),
        *each.options,
        *("--threads", str(threads), "--out", str(folder)),
    ]


def keep(name: str, folder: Path) -> None:
    """Take the rows of an experiment over into the results."""
    write_rows(RESULTS / f"compression-{name}.csv", list(read_rows(folder / "results.csv")))


def rows_of(name: str) -> list[Comparison]:
    """The rows of an experiment that are there so far."""
    return list(read_rows(RESULTS / f"compression-{name}.csv"))


def page() -> None:
    """Write docs/compression.md."""
    lines = [
        "# Compression",
        "",
        "Generated by `benchmarks/compression.py` (`run`, then `page`). Every row is one `cfp compare` cell: all",
        "methods start from the same teacher, remove the same share of parameters, and learn from the same one or two",
        "teachers for the same number of epochs; the epoch is chosen on the validation split, the test split is read",
        "once. Means and sample standard deviations are over the seeds. The rows with their full configuration are in",
        "`benchmarks/results/compression-*.csv`.",
        "",
    ]
    found = {name: rows for name in EXPERIMENTS if (rows := rows_of(name))}
    compared = [(EXPERIMENTS[name], rows) for name, rows in found.items()]
    trained = {each.title: rows for each, rows in compared if each.epochs}
    # Sliced networks are at chance before training: what lies between them tells nothing.
    untouched = {each.title: rows for each, rows in compared if not each.epochs and SLICED[0] not in each.options}
    lines += paired.section("cfp beside the others, fine-tuned", trained)
    lines += paired.section("cfp beside the others, without any training", untouched)
    for name, rows in found.items():
        lines += section(name, EXPERIMENTS[name], rows)
    (DOCS / "compression.md").write_text("\n".join(lines), encoding="utf-8")


def section(name: str, each: Experiment, rows: list[Comparison]) -> list[str]:
    """Table, plot and command of one experiment."""
    found = summaries(rows)
    teacher = rows[0]
    typed = command(name, Path("data/"), list(map(Path, each.teachers)), Path("cfp-compare"), 2)
    lines = [
        f"## {each.title}",
        "",
        f"Network that is pruned: accuracy {teacher.teacher_accuracy:.2%}, macro-F1 {teacher.teacher_macro_f1:.2%}.",
        "",
        "```text",
        " ".join(typed),
        "```",
        "",
        "| method | smaller | seeds | test accuracy | macro-F1 | points lost | multiply-adds | best epoch | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [line(summary, [row for row in rows if cell_of(row) == cell_of(summary)]) for summary in found]
    lines += ["", *plots(name, each, found, teacher), ""]
    return lines


def cell_of(row: Comparison | Summary) -> tuple[str, float]:
    """Method and ratio."""
    return (row.method, row.ratio)


def line(each: Summary, rows: list[Comparison]) -> str:
    """One row of the table."""
    epochs = ", ".join(str(row.best_epoch) for row in rows)
    seconds = sum(row.seconds for row in rows) / len(rows)
    macs = sum(row.macs for row in rows) / len(rows)
    return (
        f"| {each.method} | {each.compression:.1f}x | {each.seeds} | {each.shown(each.accuracy)} "
        f"| {each.shown(each.macro_f1)} | {100 * each.lost:.2f} | {macs / 1e6:.1f} M | {epochs} | {seconds:.0f} |"
    )


def plots(name: str, each: Experiment, found: tuple[Summary, ...], teacher: Comparison) -> list[str]:
    """Accuracy and macro-F1 against compression, from the unpruned teacher on."""
    lines = []
    for figure, label in (("accuracy", "test accuracy, %"), ("macro_f1", "macro-F1, %")):
        series: dict[str, list[tuple[float, float, float]]] = {}
        for summary in found:
            mean, deviation = getattr(summary, figure)
            series.setdefault(summary.method, []).append((summary.compression, 100 * mean, 100 * deviation))
        series["teacher"] = [(1.0, 100 * getattr(teacher, f"teacher_{figure}"), 0.0)]
        every = [point for points in series.values() for point in points]
        low = min(mean - deviation for _, mean, deviation in every)
        x = Axis("times fewer parameters", 0.9, max(p[0] for p in every) * 1.1, log=True)
        path = f"compression-{name}-{figure}.svg"
        line_plot(DOCS / path, f"{each.title}: {label}", x, Axis(label, low - 0.5, 100), series)
        lines.append(f"![{each.title}: {label} against compression]({path})")
    return lines


def main() -> None:
    """Run an experiment, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    run = tasks.add_parser("run")
    run.add_argument("experiment", choices=EXPERIMENTS)
    run.add_argument("--data", type=Path, required=True)
    run.add_argument("--teachers", type=Path, nargs="+", required=True)
    run.add_argument("--threads", type=int, default=2)
    run.add_argument("--folder", type=Path)
    tasks.add_parser("page")
    arguments = parser.parse_args()
    if arguments.task == "page":
        page()
        return
    folder = arguments.folder or Path("cfp-compare") / arguments.experiment
    typed = command(arguments.experiment, arguments.data, arguments.teachers, folder, arguments.threads)
    code = subprocess.run([str(Path(sys.executable).with_name("cfp")), *typed[1:]], check=False).returncode
    if (folder / "results.csv").exists():
        keep(arguments.experiment, folder)
    sys.exit(code)


if __name__ == "__main__":
    main()
