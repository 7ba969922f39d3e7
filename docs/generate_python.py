"""Write docs/python.md from the docstrings of the public names of `cfp_cli`.

python docs/generate_python.py             # write the page
python docs/generate_python.py --check     # exit 1 if the page is not up to date
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import cfp_cli

PAGE = Path(__file__).resolve().parent / "python.md"

HEAD = """\
# Python

Generated from the docstrings by `python docs/generate_python.py`; do not edit.

Import every name on this page from `cfp_cli`. The command line parses options, calls these functions and prints
their results. They raise subclasses of `CfpError`, which `except cfp.CfpError` catches. The message of an error is
one line: what is wrong and what to do. Functions that run long accept `progress`; the default,
`cfp_cli.foundation.progress.SILENT`, reports nothing.

Images are float32 tensors [N, 3, H, W], preprocessed as the network's spec states. Labels are int64 [N].

This example makes a small network from a trained one, as `cfp score`, `cfp prune` and `cfp finetune` do:
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
    cfp.TrainOptions.preset("student"),
    out=Path("small.pt"),
    last=Path("small.last.pt"),
    cache_folder=Path("cache"),
)
print(f"accuracy {history.test.accuracy:.2%}, macro F1 {history.test.macro_f1:.2%}")
```
[examples/shrink.py](../examples/shrink.py) shows the whole pipeline, including the teachers.
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
    "evaluate_segmentation",
)


def page() -> str:
    """Return the text of the page."""
    names = list(cfp_cli.__all__)
    first = [name for name in FUNCTIONS if name in names]
    functions = first + [name for name in names if not inspect.isclass(getattr(cfp_cli, name)) and name not in first]
    types = [name for name in names if inspect.isclass(getattr(cfp_cli, name))]
    parts = [HEAD, "## Functions\n", *map(_function, functions), "## Types\n", *map(_type, types)]
    return "\n".join(parts)


def _function(name: str) -> str:
    function = getattr(cfp_cli, name)
    return f"### {name}\n```text\n{_signature(name, function)}\n```\n{_markdown(inspect.getdoc(function) or '')}"


def _type(name: str) -> str:
    public = getattr(cfp_cli, name)
    rows = [
        f"- `{member}{_arguments(value)}`: {_first_line(value)}"
        for member, value in vars(public).items()
        if not member.startswith("_") and (callable(value) or isinstance(value, property | classmethod | staticmethod))
    ]
    methods = "Methods and properties:\n" + "\n".join(rows) + "\n" if rows else ""
    text = _markdown(inspect.getdoc(public) or "") + _fields(public)
    return f"### {name}\n```text\n{_signature(name, public)}\n```\n{text}{methods}"


def _fields(public: Any) -> str:
    """The fields of a dataclass that have their help in their metadata."""
    if not is_dataclass(public):
        return ""
    rows = [f"- `{field.name}`: {field.metadata['help']}\n" for field in fields(public) if "help" in field.metadata]
    return "\nAttributes:\n" + "".join(rows) if rows else ""


def _signature(name: str, public: Any) -> str:
    """The signature with one parameter a line, without values that change from run to run."""
    if inspect.isclass(public) and issubclass(public, Exception):
        return f"{name}(message: str)"
    signature = inspect.signature(public)
    lines: list[str] = []
    keyword_only = False
    for parameter in signature.parameters.values():
        if parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            lines.append("*,")
            keyword_only = True
        lines.append(f"{_parameter(parameter)},")
    returned = signature.return_annotation
    tail = f" -> {returned}" if returned not in (signature.empty, "None", None) else ""
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
    """A docstring in Google style as Markdown; its sections become lists."""
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
    """Write or check the page."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
