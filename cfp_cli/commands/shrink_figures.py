"""The tables and lines with which `cfp shrink` ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfp_cli.commands.figures import INTERVALS, figure, worst_class
from cfp_cli.commands.tables import sentence

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.runs.records import ShrinkMetrics
    from cfp_cli.runs.shrunk import Shrunk


# Two measurements of one network differ by less.
SLOWER = 0.97


def frontier_table(done: Shrunk) -> Table:
    """The candidates, from the largest to the smallest."""
    from rich.table import Table

    from cfp_cli.measuring.loss_rule import METRIC_NAMES

    metrics = done.metrics
    name = METRIC_NAMES[metrics.metric]
    rule = (
        f"loss: {name} on {compared_images(metrics)}, in points, ± standard error; a network passes if both together "
        f"are up to {metrics.max_loss:g} (--max-loss)"
    )
    timed, sized = (any(getattr(each, name) for each in metrics.frontier) for name in ("latency_ms", "bytes"))
    estimates = [*(["ms (about)"] if timed else []), *(["bytes (about)"] if sized else [])]
    table = Table("parameters", "multiply-adds", *estimates, "how", "loss", "", title="frontier", caption=rule)
    for point in sorted(done.metrics.frontier, key=lambda each: (-each.params, each.trained)):
        table.add_row(
            f"{point.params:,}",
            f"{point.macs / 1e6:,.1f} M",
            *([f"{point.latency_ms or 0:.3g}"] if timed else []),
            *([f"{point.bytes or 0:,}"] if sized else []),
            sentence("fine-tuned" if point.trained else "refitted"),
            f"{point.loss:.2f} ± {point.standard_error:.2f}",
            "chosen" if point.chosen else "passes" if point.passes else "fails",
        )
    return table


def result_tables(done: Shrunk) -> list[Table]:
    """The original and the chosen network on the validation and on the test images."""
    from rich.table import Table

    metrics = done.metrics
    labels = "" if metrics.labelled else "; the original's predictions are the labels"
    tables = []
    for title, original, small in (
        (f"validation images: they chose the network{labels}", metrics.original_val, metrics.val),
        ("test images: report these", metrics.original_test, metrics.test),
    ):
        if original is None or small is None:
            continue
        table = Table("network", "accuracy", "macro-F1", "worst class", title=title, caption=INTERVALS)
        for name, each in (("original", original), ("shrunk", small)):
            table.add_row(name, figure(each, "accuracy"), figure(each, "macro_f1"), worst_class(each))
        tables.append(table)
    return tables


def compared_images(metrics: ShrinkMetrics) -> str:
    """What the loss of a candidate was measured on."""
    images = f"the {metrics.val.images} validation images"
    return images if metrics.views == 1 else f"{metrics.views} views of each of {images}"


def change(loss: float) -> str:
    """A loss in points as a verb and a number: a negative loss is a gain."""
    return f"loses {loss:.2f} points" if loss >= 0 else f"gains {-loss:.2f} points"


def loss_on_test(metrics: ShrinkMetrics) -> tuple[str, ...]:
    """One line on the loss on the test images, which did not choose the network; nothing without test images."""
    before, after = metrics.original_test, metrics.test
    if before is None or after is None:
        return ()
    losses = {name: (getattr(before, name) - getattr(after, name)) * 100 for name in ("macro_f1", "accuracy")}
    line = (
        f"on the {after.images} test images it {change(losses['macro_f1'])} of macro-F1 and "
        f"{change(losses['accuracy'])} of accuracy"
    )
    if losses.get(metrics.metric, losses["accuracy"]) <= metrics.max_loss:
        return (line,)
    return (f"{line}, more than --max-loss {metrics.max_loss:g}; check it on more images before you use it",)


def verdict(done: Shrunk) -> list[str]:
    """Say how much smaller the network is, and whether it is within the loss; a line for each fact."""
    from cfp_cli.measuring.loss_rule import LOOKS, METRIC_NAMES

    metrics, judged, chosen = done.metrics, done.judged, done.chosen
    images, name = metrics.val.images, METRIC_NAMES[metrics.metric]
    lines = [
        f"{done.compression:.1f}x fewer parameters ({chosen.params:,}), {done.macs_ratio:.1f}x fewer multiply-adds "
        f"({chosen.macs / 1e6:,.1f} M)",
        f"it {change(judged.loss.points)} of {name} on {compared_images(metrics)}, with a standard error of "
        f"{judged.loss.standard_error:.2f}: {judged.together(metrics.max_loss)} together; {metrics.max_loss:g} may be "
        f"lost, one image is {100 / images:.2f}",
    ]
    if not metrics.complete:
        compared = len(metrics.frontier)
        ended = (
            f"the search ended after {compared} networks, so a smaller one may pass"
            if compared >= LOOKS - 1
            else "the time limit ended the search, so a smaller network may pass; repeat the command with a longer one"
        )
        lines.append(ended)
    if judged.passes:
        return lines
    return [
        "no network that fits is within the loss, and this is the best one; raise --max-loss or a --budget, or train "
        "longer with --epochs",
        *lines,
    ]


def speed(done: Shrunk) -> list[str]:
    """Say how fast the network is beside the original, if it is slower, and which budgets it exceeds."""
    metrics, ratio = done.metrics, done.latency_ratio
    lines = []
    if metrics.original_latency is not None and metrics.latency is not None and ratio is not None:
        before, after = metrics.original_latency, metrics.latency
        where = f"{after.runtime}, {after.threads} thread{'s' if after.threads != 1 else ''}, batch {after.batch}"
        lines.append(
            f"latency {before.median:.3g} ms before, {after.median:.3g} ms after, {ratio:.1f}x as fast: {where}"
        )
        if ratio < SLOWER:
            lines.append(
                "warning: it is slower than the original; use --target latency, or --round-to 8, which suits most "
                "kernels"
            )
    if metrics.bytes is not None:
        lines.append(f"{metrics.bytes:,} bytes as an ONNX file")
    lines += [f"it exceeds the budget {each}; repeat the command with a smaller one" for each in metrics.over_budget]
    return lines
