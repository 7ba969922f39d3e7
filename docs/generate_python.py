"""Writes docs/python.md from the docstrings of what `cfp_cli` offers.

python docs/generate_python.py             # write it
python docs/generate_python.py --check     # exit 1 where it is not current
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cfp_cli

PAGE = Path(__file__).resolve().parent / "python.md"

HEAD = """\
# Python

Generated from the docstrings by `python docs/generate_python.py`; do not edit.

Everything here is imported from `cfp_cli`. The command line only parses, calls these functions and renders. They raise
classes of `cfp_cli.foundation.errors`, all of them `CfpError`, with one line that says what is wrong and what to do.
Long work takes `progress`: `cfp_cli.foundation.progress.SILENT` by default.

Images are float32 tensors [N, 3, H, W] in the preprocessing that a network's spec names, labels int64 [N].

From a trained network to a small one, as `cfp score`, `cfp prune` and `cfp finetune` go:
```python
from dataclasses import replace
from pathlib import Path

import cfp_cli as cfp

data = cfp.open_dataset("data")
model = cfp.load("model.pt")
train = cfp.load_images(data, "train", cfp.Preprocessing.of(model.spec))

scores = cfp.score(model, train.batches(16))
student, plan = cfp.prune(model, scores, 0.9, loader=train.batches(64))
print(f"{plan.params_before:,} to {plan.params_after:,} parameters, logits equal to {plan.max_abs_logit_error:.1e}")

cfp.describe(student, replace(model.spec.followed_by("prune"), plan=plan.to_json()))

history = cfp.finetune(
    student,
    data,
    [cfp.load("rl.pt"), cfp.load("cl.pt")],
    cfp.TrainOptions(epochs=300),
    out=Path("small.pt"),
    last=Path("small.last.pt"),
    cache_folder=Path("cache"),
)
print(f"accuracy {history.test.accuracy:.2%}, macro F1 {history.test.macro_f1:.2%}")
```
[examples/shrink.py](../examples/shrink.py) goes the whole road, teachers and fine-tuning too.
"""

FUNCTIONS = (
    "load",
    "save",
    "describe",
    "open_dataset",
    "channel_sets",
    "score",
    "prune",
    "train",
    "finetune",
    "evaluate",
)


def page() -> str:
    """The whole page."""
    names = list(cfp_cli.__all__)
    first = [name for name in FUNCTIONS if name in names]
    functions = first + [name for name in names if not inspect.isclass(getattr(cfp_cli, name)) and name not in first]
    types = [name for name in names if inspect.isclass(getattr(cfp_cli, name))]
    parts = [HEAD, "## Functions\n", *map(_function, functions), "## Types\n", *map(_type, types)]
    return "\n".join(parts)


def _function(name: str) -> str:
    made = getattr(cfp_cli, name)
    return f"### {name}\n```text\n{_signature(name, made)}\n```\n{_markdown(inspect.getdoc(made) or '')}"


def _type(name: str) -> str:
    made = getattr(cfp_cli, name)
    rows = [
        f"- `{member}{_arguments(value)}`: {_first_line(value)}"
        for member, value in vars(made).items()
        if not member.startswith("_") and (callable(value) or isinstance(value, property | classmethod | staticmethod))
    ]
    methods = "Methods and properties:\n" + "\n".join(rows) + "\n" if rows else ""
    return f"### {name}\n```text\n{_signature(name, made)}\n```\n{_markdown(inspect.getdoc(made) or '')}{methods}"


def _signature(name: str, made: Any) -> str:
    """The signature, one parameter a line, without what changes from run to run."""
    if inspect.isclass(made) and issubclass(made, Exception):
        return f"{name}(message: str)"
    signature = inspect.signature(made)
    lines: list[str] = []
    keyword_only = False
    for parameter in signature.parameters.values():
        if parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            lines.append("*,")
            keyword_only = True
        lines.append(f"{_parameter(parameter)},")
    gives = signature.return_annotation
    tail = f" -> {gives}" if gives not in (signature.empty, "None", None) else ""
    return "\n".join([f"{name}(", *(f"    {line}" for line in lines), f"){tail}"]) if lines else f"{name}(){tail}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{kind}"
    value = repr(parameter.default)
    if parameter.annotation == "Progress":
        value = "SILENT"
    elif value == "<factory>":
        value = "..."
    return f"{parameter.name}{kind} = {value}"


def _arguments(member: Any) -> str:
    if isinstance(member, property):
        return ""
    function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    try:
        names = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
    except (TypeError, ValueError):
        return ""
    return f"({', '.join(names)})"


def _first_line(member: Any) -> str:
    function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    return (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")


def _markdown(docstring: str) -> str:
    """A Google docstring as Markdown: its sections become lists."""
    return "\n".join(_lines(docstring)) + "\n"


def _lines(docstring: str) -> Iterator[str]:
    section = False
    for line in docstring.splitlines():
        if re.fullmatch(r"(Args|Attributes|Returns|Raises):", line):
            section = line != "Returns:"
            yield f"{line[:-1]}:\n" if not section else line
        elif section and (found := re.fullmatch(r"    (\S[^:]*): (.*)", line)):
            yield f"- `{found[1]}`: {found[2]}"
        elif line.startswith("    "):
            yield f"  {line.strip()}" if section else line.strip()
        else:
            section = section and not line
            yield line


def main() -> int:
    """Write the page, or check it."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
