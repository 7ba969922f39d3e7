"""cfp and other methods compared seed by seed; a seed fixes images, views and order of training for all methods."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from experiments import METHOD_LABELS

from cfp_cli.comparing.rows import Comparison

CFP = "cfp"
METRICS = {"test_accuracy": "accuracy", "test_macro_f1": "macro-F1"}


def leads(rows: Sequence[Comparison], other: str, metric: str) -> list[float]:
    """Value of cfp minus value of `other` in points, one for each ratio and seed that both have."""
    values = {(row.method, row.ratio, row.seed): 100 * float(getattr(row, metric)) for row in rows}
    cells = sorted((ratio, seed) for method, ratio, seed in values if method == CFP)
    return [values[CFP, *cell] - values[other, *cell] for cell in cells if (other, *cell) in values]


def leads_over_all(experiments: Iterable[Sequence[Comparison]], other: str, metric: str) -> list[float]:
    """The leads of all experiments."""
    return [lead for rows in experiments for lead in leads(rows, other, metric)]


def best_other(rows: Sequence[Comparison], metric: str) -> str | None:
    """The method with the highest mean that is not cfp or a variant of cfp; None if there is none."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if not row.method.startswith(CFP):
            values.setdefault(row.method, []).append(float(getattr(row, metric)))
    return max(values, key=lambda method: statistics.mean(values[method]), default=None)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation; one value has no deviation."""
    # Rounding can return a negative zero.
    mean = f"{round(statistics.mean(values), 2) + 0.0:+.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def counts(values: Sequence[float]) -> str:
    """How many leads are positive, zero and negative."""
    return (
        f"{sum(v > 0 for v in values)} ahead, {sum(v == 0 for v in values)} level, {sum(v < 0 for v in values)} behind"
    )


def section(title: str, experiments: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """Two tables: cfp against the best other method of each experiment, and against each method over all experiments.

    Args:
        title: heading of the section.
        experiments: rows by title; experiments without cfp or without another method are skipped.
    """
    compared = {
        name: rows
        for name, rows in experiments.items()
        if any(row.method == CFP for row in rows) and best_other(rows, "test_accuracy")
    }
    if not compared:
        return []
    lines = [
        f"## {title}",
        "",
        "Lead of cfp in points within the same seed, mean ± sample standard deviation over seeds. The best other",
        "method is the one with the highest mean on the test images; choosing it by test result favours it. Random",
        "channels in cfp's allocation and cfp's shape trained from scratch count as other methods.",
        "",
        "| experiment | metric | best other method | lead of cfp | seeds |",
        "|---|---|---|---|---|",
    ]
    for name, rows in compared.items():
        for metric, label in METRICS.items():
            other = best_other(rows, metric)
            assert other is not None
            lead = leads(rows, other, metric)
            lines.append(f"| {name} | {label} | {METHOD_LABELS[other]} | {mean_and_deviation(lead)} | {counts(lead)} |")
    lines += [
        "",
        "All of these experiments together, by method:",
        "",
        "| method | pairs | lead in accuracy | pairs | lead in macro-F1 | pairs |",
        "|---|---|---|---|---|---|",
    ]
    methods = {row.method for rows in compared.values() for row in rows} - {CFP}
    table = [(m, *(leads_over_all(compared.values(), m, metric) for metric in METRICS)) for m in methods]
    for method, accuracy, macro_f1 in sorted(table, key=lambda each: (statistics.mean(each[1]), each[0])):
        cells = " | ".join(f"{mean_and_deviation(lead)} | {counts(lead)}" for lead in (accuracy, macro_f1))
        lines.append(f"| {METHOD_LABELS[method]} | {len(accuracy)} | {cells} |")
    return [*lines, ""]
