"""The table of `cfp eval` for segmentation networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfp_cli.commands.tables import sentence

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.measuring.segmentation import SegmentationMetrics

# The largest number of classes in the table.
_CLASSES = 50


def segmentation_table(metrics: SegmentationMetrics, title: str) -> Table:
    """The figures of each class, then those over all classes. Of many classes, those with the lowest IoU are shown."""
    from rich.table import Table

    table = Table("", "IoU", "recall", "precision", "pixels", title=title)
    lowest = sorted((each for each in metrics.per_class.items() if each[1].present), key=lambda each: each[1].iou)
    names = {name for name, _ in lowest[:_CLASSES]}
    absent = False
    for name, each in metrics.per_class.items():
        if len(metrics.per_class) > _CLASSES and name not in names:
            continue
        ratios = ((each.iou, each.present), (each.recall, each.pixels > 0), (each.precision, each.predicted > 0))
        absent |= not all(defined for _, defined in ratios)
        table.add_row(name, *(f"{ratio:.2%}" if defined else "-" for ratio, defined in ratios), f"{each.pixels:,}")
    captions = []
    if left_out := len(metrics.per_class) - table.row_count:
        captions.append(f"{left_out} other classes: see --json")
    if absent:
        captions.append("-: no pixel says something about it")
    table.caption = "; ".join(captions) or None
    table.add_section()
    table.add_row(sentence("mean IoU"), f"{metrics.mean_iou:.2%}", "", "", "")
    table.add_row(sentence("pixel accuracy"), f"{metrics.pixel_accuracy:.2%}", "", "", f"{metrics.pixels:,}")
    return table
