"""The commands that `faults.py` kills, interrupts and races, and what each of them writes."""

from __future__ import annotations

from dataclasses import dataclass

from small_network import ARCH

ONE_THREAD = ["--threads", "1"]
TRAINING = ["--epochs", "3", "--batch-size", "8", "--views", "1", "--augment", "none", *ONE_THREAD]
SHORT = ["--epochs", "1", *TRAINING[2:]]
OTHER_SEED = ["--seed", "7"]
# Other runtimes write nothing, and each child would import them anew.
TORCH_ONLY = ["--no-onnx", "--no-openvino"]
# The demo trains for minutes. These constants of `cfp_cli.runs.demo` make it a matter of seconds.
SMALL_DEMO = {
    "ARCH": ARCH,
    "INPUT_SIZE": (32, 32),
    "PER_CLASS": 4,
    "TEST_PER_CLASS": 1,
    "IMBALANCE": 1.0,
    "TEACHER_EPOCHS": 1,
    "BALANCED_EPOCHS": 1,
    "STUDENT_EPOCHS": 1,
    "RATIO": 0.5,
}


@dataclass(frozen=True)
class Command:
    """A command line of cfp.

    Attributes:
        line: the arguments of `cfp`.
        earlier: more arguments for an earlier run of the command, whose files it replaces; None if it replaces none.
        resumes: whether it continues with --resume.
        records: whether it adds a record to `cfp-run/run.json`.
    """

    line: list[str]
    earlier: list[str] | None
    resumes: bool = False
    records: bool = True


def train(arch: str, out: str = "rl.pt", *more: str) -> list[str]:
    return ["train", "data", "--arch", arch, "--input-size", "32", "--out", out, *more]


COMPARE = ["compare", "data", "--teachers", "rl.pt", "--methods", "l1", "--ratios", "0.5", "--images", "12", *SHORT]

# In the order of the work.
COMMANDS: dict[str, Command] = {
    "train": Command(train(ARCH, "rl.pt", *TRAINING), OTHER_SEED, resumes=True, records=False),
    "folds": Command(train(ARCH, "folds.pt", "--folds", "2", *SHORT), OTHER_SEED, resumes=True, records=False),
    "score": Command(["score", "rl.pt", "data", "--images", "12", *ONE_THREAD], OTHER_SEED),
    "prune": Command(["prune", "--ratio", "0.5", *ONE_THREAD], OTHER_SEED),
    "finetune": Command(["finetune", "--teachers", "rl.pt", *TRAINING], OTHER_SEED, resumes=True),
    "export-onnx": Command(["export", "--format", "onnx", "--out", "small.onnx"], []),
    "export-pt2": Command(["export", "--format", "pt2", "--out", "small.pt2"], []),
    "export-openvino": Command(["export", "--format", "openvino", "--out", "small.xml"], []),
    "bench": Command(["bench", "rl.pt", "--seconds", "0.01", *TORCH_ONLY, *ONE_THREAD], []),
    "report": Command(["report", "--no-bench", *ONE_THREAD], []),
    "card": Command(["report", "--card", "--no-bench", *ONE_THREAD], []),
    "compare": Command([*COMPARE, "--seeds", "0"], None, records=False),
    "split": Command(["data", "split", "data", "split-data"], None, records=False),
    "fuse": Command(["fuse", "repvgg.pt", "--out", "fused.pt"], [], records=False),
    "predict": Command(["predict", "rl.pt", "data/test", "--csv", "predicted.csv", *ONE_THREAD], [], records=False),
    "demo": Command(["demo", "--run", "demo-run", *ONE_THREAD], None, records=False),
}
# What other commands need.
PIPELINE = ("train", "score", "prune", "finetune")
# Pairs that are started at almost the same time.
PAIRS = (
    ("finetune", "finetune"),
    ("prune", "finetune"),
    ("score", "prune"),
    ("bench", "bench"),
    ("bench", "finetune"),
    ("export-pt2", "report"),
    ("score", "score"),
    ("prune", "prune"),
    ("bench", "report"),
    ("train", "train"),
    ("export-onnx", "card"),
    ("predict", "finetune"),
    ("fuse", "fuse"),
    ("demo", "demo"),
)
