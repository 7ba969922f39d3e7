"""cfp beside other methods in the same seed, which decides images, views and order of training for all of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from cfp_cli.comparing.grid import Comparison

OURS = "cfp"
FIGURES = (("test_accuracy", "accuracy"), ("test_macro_f1", "macro-F1"))


def differences(rows: Sequence[Comparison], other: str, figure: str) -> list[float]:
    """Points by which cfp is ahead of `other`, one for each ratio and seed that both have."""
    values = {(row.method, row.ratio, row.seed): 100 * float(getattr(row, figure)) for row in rows}
    ours = sorted((ratio, seed) for method, ratio, seed in values if method == OURS)
    return [values[OURS, *cell] - values[other, *cell] for cell in ours if (other, *cell) in values]


def best_other(rows: Sequence[Comparison], figure: str) -> str | None:
    """The method of other origin than cfp and its variants with the highest mean; None where there is none."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if not row.method.startswith(OURS):
            found.setdefault(row.method, []).append(float(getattr(row, figure)))
    return max(found, key=lambda method: statistics.mean(found[method]), default=None)


def shown(values: Sequence[float]) -> str:
    """Mean and sample standard deviation; one value has none."""
    # Rounding may leave a negative zero.
    mean = f"{round(statistics.mean(values), 2) + 0.0:+.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def section(title: str, experiments: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """Two tables: the best other method of each experiment, and each method over all experiments that have it.

    Args:
        title: its heading.
        experiments: rows by title; those without cfp or without another method are left out.
    """
    compared = {
        name: rows
        for name, rows in experiments.items()
        if any(row.method == OURS for row in rows) and best_other(rows, FIGURES[0][0])
    }
    if not compared:
        return []
    lines = [
        f"## {title}",
        "",
        "Points by which cfp is ahead, in the same seed; mean ± sample standard deviation over seeds. The best other",
        "method is the one with the highest mean on the test images, random channels in cfp's own allocation and the",
        "shape trained from scratch among them, so that chance speaks against cfp.",
        "",
        "| experiment | figure | best other | cfp ahead by | in seeds |",
        "|---|---|---|---|---|",
    ]
    for name, rows in compared.items():
        for figure, label in FIGURES:
            other = best_other(rows, figure)
            assert other is not None
            ahead = differences(rows, other, figure)
            lines.append(f"| {name} | {label} | {other} | {shown(ahead)} | {wins(ahead)} |")
    lines += ["", "Over all of these experiments, by method:", ""]
    lines += ["| method | pairs | cfp's accuracy ahead by | in pairs | cfp's macro-F1 ahead by | in pairs |"]
    lines += ["|---|---|---|---|---|---|"]
    methods = {row.method for rows in compared.values() for row in rows} - {OURS}
    table = [(method, *(over_all(compared.values(), method, figure) for figure, _ in FIGURES)) for method in methods]
    for method, accuracy, macro_f1 in sorted(table, key=lambda each: statistics.mean(each[2])):
        cells = (f"{shown(ahead)} | {wins(ahead)}" for ahead in (accuracy, macro_f1))
        lines.append(f"| {method} | {len(accuracy)} | {' | '.join(cells)} |")
    return [*lines, ""]


def over_all(experiments: Iterable[Sequence[Comparison]], other: str, figure: str) -> list[float]:
    """The differences of all experiments."""
    return [each for rows in experiments for each in differences(rows, other, figure)]


def wins(ahead: Sequence[float]) -> str:
    """How many of the differences are ahead, level and behind."""
    return f"{sum(a > 0 for a in ahead)} ahead, {sum(a == 0 for a in ahead)} level, {sum(a < 0 for a in ahead)} behind"
