"""The verdict on a run in a few sentences: how much smaller and faster, and what that costs in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.measuring.intervals import Interval
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.report.page_data import ModelFacts
from cfp_cli.report.text import percent, points, range_of, speed, times

# Small computers run networks in the first ones.
RUNTIMES = ("onnxruntime", "openvino", "torch")


@dataclass(frozen=True)
class Verdict:
    """The verdict on the last network of a run.

    Attributes:
        headline: the accuracy and the worst class in two sentences; it says so if the network has collapsed.
        bad: whether the network has collapsed or has lost accuracy beyond chance.
        facts: further sentences: size, speed, accuracy, macro-F1 and worst class.
    """

    headline: str
    bad: bool
    facts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {"headline": self.headline, "bad": self.bad, "facts": list(self.facts)}


def give_verdict(
    original: ModelFacts,
    final: ModelFacts | None,
    change: Interval | None,
    latency: Sequence[Benchmark],
    repeated: int = 0,
) -> Verdict:
    """Compare the last network of a run with the original.

    Args:
        original: the scored network.
        final: the last network; None before pruning.
        change: interval of the change of the test accuracy; None if it was not measured.
        latency: latency of the original and of the last network; may be empty.
        repeated: number of test images whose content is also among the training or validation images.
    """
    shown = final or original
    headline, bad = _headline(original, final, change)
    if shown.metrics is not None:
        worst = shown.metrics.worst_class
        headline += f" Worst class: {worst.label}, recall {percent(worst.recall)}."
    facts = []
    if final is not None:
        facts.append(
            f"Smaller: {times(original.params, final.params)} fewer parameters, "
            f"{times(original.macs, final.macs)} fewer multiply-adds, "
            f"file {times(original.bytes, final.bytes)} smaller ({stored_types(original, final)})."
        )
        facts += _speed(latency)
    if shown.metrics is not None:
        facts += _accuracy(original.metrics if final is not None else None, shown.metrics, change)
        if repeated:
            facts.append(repeated_images(repeated))
    return Verdict(headline, bad, tuple(facts))


def stored_types(original: ModelFacts, final: ModelFacts) -> str:
    """Return the types in which two files store their numbers, which is part of the reason for their sizes."""
    if original.stored == final.stored:
        return f"both {final.stored}"
    return f"{original.stored} before, {final.stored} now"


def repeated_images(count: int) -> str:
    """Return the sentence on test images that are also in another split."""
    images, have = ("test image", "has") if count == 1 else ("test images", "have")
    return (
        f"{count} {images} {have} the content of a training or validation image, so the test figures are too good; "
        f"remove {'it' if count == 1 else 'them'} from one split."
    )


def _headline(original: ModelFacts, final: ModelFacts | None, change: Interval | None) -> tuple[str, bool]:
    shown = final or original
    if shown.metrics is None:
        return "Accuracy was not measured: the data have no test split.", False
    collapse = shown.metrics.collapse
    if collapse is not None:
        return (
            f"The {shown.role} network has collapsed: it names '{collapse.name}' for {collapse.images} of "
            f"{shown.metrics.images} test images. Do not use it.",
            True,
        )
    if final is None:
        return "The network is scored and not pruned yet.", False
    if change is None:
        return f"The {final.role} network is not compared with the original on the same images.", False
    if change.high < 0:
        return f"The {final.role} network is less accurate than the original; chance alone does not explain it.", True
    if change.low > 0:
        return f"The {final.role} network is more accurate than the original.", False
    return (
        f"No loss of accuracy can be shown. With {shown.metrics.images} test images, a loss of up to "
        f"{max(0.0, -change.low) * 100:.1f} points is still possible.",
        False,
    )


def _speed(latency: Sequence[Benchmark]) -> list[str]:
    """Return a sentence on the first of `RUNTIMES` at the smallest batch that both networks were timed at.

    The runtime does not depend on which was faster, so that two reports compare the same thing.
    """
    if len(latency) < 2:
        return []
    first, last = latency[0].latency_ms, latency[-1].latency_ms
    pairs = [
        (a, b)
        for a in first
        for b in last
        if (a.runtime, a.batch, a.threads, a.device, a.memory) == (b.runtime, b.batch, b.threads, b.device, b.memory)
    ]
    if not pairs:
        return []
    before, after = min(pairs, key=lambda pair: (pair[1].batch, _order(pair[1].runtime), pair[1].threads))
    where = f"{after.runtime}, batch {after.batch}, {after.threads} thread{'s' if after.threads > 1 else ''}"
    several = len({after.runtime for _, after in pairs}) > 1
    why = f"; of the measured runtimes, the first of {', '.join(RUNTIMES)}" if several else ""
    return [f"Speed: {speed(before.median, after.median)}, {after.median:.2f} ms ({where} on {after.device}{why})."]


def _order(runtime: str) -> int:
    return RUNTIMES.index(runtime) if runtime in RUNTIMES else len(RUNTIMES)


def _accuracy(before: Metrics | None, after: Metrics, change: Interval | None) -> list[str]:
    intervals = after.intervals
    accuracy = f"Test accuracy: {percent(after.accuracy)} ({range_of(intervals['accuracy'])})"
    macro = f"Macro-F1: {percent(after.macro_f1)} ({range_of(intervals['macro_f1'])})"
    if before is not None:
        accuracy += f", change {points(after.accuracy - before.accuracy)} points"
        if change is not None:
            accuracy += f" (95 % interval {points(change.low)} to {points(change.high)})"
        macro += f", change {points(after.macro_f1 - before.macro_f1)} points"
    worst = after.worst_class
    alone = len(worst.names) == 1
    facts = f"recall {percent(worst.recall)}"
    if alone:
        facts += f" ({range_of(worst.interval)}) on {worst.images} images"
    if alone and before is not None:
        facts += f", {percent(before.per_class[worst.name].recall)} before"
    sentences = [f"{accuracy}.", f"{macro}.", f"Worst class: {worst.label}, {facts}."]
    if before is None:
        return sentences
    changes = {name: each.recall - before.per_class[name].recall for name, each in after.per_class.items()}
    name = min(changes, key=lambda each: changes[each])
    if changes[name] < 0 and worst.names != (name,):
        recalls = (percent(metrics.per_class[name].recall) for metrics in (before, after))
        sentences.append(f"Largest loss of a class: {name}, recall {' to '.join(recalls)}.")
    return sentences
