"""Tables that fit 80 columns where their content allows it: lines break only between the parts of a cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Column, Table
    from rich.text import Text


@dataclass(frozen=True)
class Parts:
    """A cell of a table that may continue on the next line between two parts, and nowhere else.

    Attributes:
        parts: the texts, such as a figure and its interval; they are separated by a blank or a line break.
    """

    parts: tuple[str, ...]

    def __str__(self) -> str:
        """Return all parts on one line."""
        return " ".join(self.parts)

    def lines(self, width: int) -> list[str]:
        """Return as few lines as possible that have at most `width` characters, except where one part has more."""
        from rich.cells import cell_len

        lines: list[str] = []
        for part in self.parts:
            if lines and cell_len(lines[-1]) + 1 + cell_len(part) <= width:
                lines[-1] += f" {part}"
            else:
                lines.append(part)
        return lines

    def __rich_measure__(self, console: RichConsole, options: ConsoleOptions) -> Measurement:
        """Return the smallest and the largest width, for rich."""
        from rich.cells import cell_len
        from rich.measure import Measurement

        return Measurement(max((cell_len(part) for part in self.parts), default=0), cell_len(str(self)))

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> Iterator[Text]:
        """Return the text, for rich."""
        from rich.text import Text

        yield Text("\n".join(self.lines(options.max_width)))


def sentence(text: str) -> Parts:
    """Return a text as a cell that breaks between two words."""
    return Parts(tuple(text.split()))


def listed(names: Iterable[str]) -> Parts:
    """Return names separated by commas, as a cell that breaks between two names."""
    *others, last = tuple(names) or ("",)
    return Parts((*(f"{name}," for name in others), last))


def fit(table: Table, console: RichConsole, width: int) -> None:
    """Narrow the columns of a table so that it has at most `width` characters, if no name must be cut for that.

    Columns become narrower where cells have parts or headers have several words. A table that is still wider keeps the
    narrowest width at which nothing is cut; on a terminal, rich breaks its names.

    Args:
        table: the table; the widths of its columns are set.
        console: the console that will print the table.
        width: the desired width in characters.
    """
    for column in table.columns:
        column.overflow = "fold"
    ranges = [_range(column, console) for column in table.columns]
    # One blank on each side of a cell, and one line beside each column.
    frame = 3 * len(ranges) + 1
    widths = [low for low, _ in ranges]
    spare = width - frame - sum(widths)
    if spare < 0 and console.is_terminal:
        return
    # The columns that need least to avoid breaks come first.
    for index in sorted(range(len(ranges)), key=lambda index: ranges[index][1] - ranges[index][0]):
        more = min(max(spare, 0), ranges[index][1] - ranges[index][0])
        widths[index] += more
        spare -= more
    for column, chosen in zip(table.columns, widths, strict=True):
        column.width = chosen


def _range(column: Column, console: RichConsole) -> tuple[int, int]:
    """Return the smallest and the largest useful width of a column."""
    from rich.cells import cell_len
    from rich.measure import Measurement

    words = str(column.header).split()
    ranges = [(max(map(cell_len, words), default=0), cell_len(str(column.header)))]
    for cell in column.cells:
        if isinstance(cell, str):
            # The console shows control characters as visible symbols, which are wider.
            longest = max((cell_len(console.render_str(line).plain) for line in cell.split("\n")), default=0)
            ranges.append((longest, longest))
        else:
            measured = Measurement.get(console, console.options, cell)
            ranges.append((measured.minimum, measured.maximum))
    low, high = (max(values) for values in zip(*ranges, strict=True))
    return max(low, 1), max(high, 1)
