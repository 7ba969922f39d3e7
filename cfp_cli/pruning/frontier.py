"""The search for the smallest network that passes a test: which compression to try next. Nothing is measured here.

A compression is the target (parameters, multiply-adds, latency or bytes) of the original divided by that of a
candidate. Loss mostly grows with compression, but not everywhere, so the search claims nothing about compressions that
it did not try: its result is a candidate that passed. Of the candidates above one that failed, some pass by chance;
they do not count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from cfp_cli.foundation.errors import TargetError, UsageError

# The smallest compression that is worth a new network.
LEAST = 1.05
# The search first tries this compression, then this factor more while candidates pass.
START = 16.0
FACTOR = 4.0
# Two compressions are close enough if their ratio is at most this.
CLOSE = 1.15
# A plan that fits the budgets is searched to this precision.
PRECISION = 1.01

Cost = Literal["params", "macs", "latency", "bytes"]
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
# Milliseconds of a unit of time.
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_EXAMPLES = "--budget 'params<=400k', 'macs<=12M', 'latency<=2ms' or 'bytes<=500k'"


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost.

    Attributes:
        cost: what is counted: `params`, `macs`, `latency` or `bytes`.
        most: the largest allowed number; of `latency` in milliseconds.
    """

    cost: Cost
    most: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a text such as `params<=400k`, `macs<=12.5M`, `latency<=2ms` or `bytes<=500k`.

        Raises:
            UsageError: the text is not a budget.
        """
        name, _, amount = (part.strip() for part in text.partition("<="))
        cost = {"flops": "macs"}.get(name, name)
        units = _TIMES if cost == "latency" else _FACTORS
        # Sizes of files may be written as 500kB.
        letters = amount.lower().removesuffix("b") if cost == "bytes" else amount.lower()
        number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", letters)
        if cost not in get_args(Cost) or number is None or number[2] not in units:
            raise UsageError(f"'{text}' is not a budget; write {_EXAMPLES}")
        most = float(number[1]) * units[number[2]]
        if cost != "latency":
            most = int(most)
        if most <= 0:
            raise UsageError(f"the budget '{text}' allows nothing; use a larger number")
        return cls(cost, most)  # type: ignore[arg-type]

    def fits(self, costs: Mapping[Cost, float]) -> bool:
        """Whether a network with these costs is within the budget."""
        return costs[self.cost] <= self.most

    def __str__(self) -> str:
        """Return the budget as text, such as `params<=400,000` or `latency<=2ms`."""
        return f"{self.cost}<={self.most:g}ms" if self.cost == "latency" else f"{self.cost}<={self.most:,}"


def below_first_failure(tried: Mapping[float, bool]) -> list[float]:
    """Compressions that passed and are below all that failed, ascending.

    The more candidates are tried, the more pass by chance. Such a candidate mostly lies above others that failed.

    Args:
        tried: whether a candidate passed, by compression.
    """
    failed = min((each for each, passes in tried.items() if not passes), default=math.inf)
    return sorted(each for each, passes in tried.items() if passes and each < failed)


def _border(tried: Mapping[float, bool]) -> tuple[float | None, float | None]:
    """The largest compression that passed below all failures, and the smallest that failed; None if there is none."""
    passed = max(below_first_failure(tried), default=None)
    return passed, min((each for each, passes in tried.items() if not passes), default=None)


def next_compressions(
    tried: Mapping[float, bool],
    count: int = 1,
    *,
    least: float = LEAST,
    start: float = START,
    factor: float = FACTOR,
    close: float = CLOSE,
) -> list[float]:
    """Return the compressions to try next, at the same time; none if the border between passing and failing is known.

    The search multiplies the compression while candidates pass, then divides the interval between the smallest one that
    failed and the largest one below it that passed, on a logarithmic scale. If all fail, it goes down to `least`.

    Args:
        tried: whether a candidate passed, by compression. A compression that cannot be reached counts as failed.
        count: number of compressions at most, 1 or more. With 1, intervals are halved.
        least: smallest compression, above or equal to which all candidates must be.
        start: the first compression to try.
        factor: factor between compressions while all candidates pass.
        close: largest ratio of the two sides of the border at which the search ends.

    Returns:
        Compressions of at least `least` that are not in `tried`, ascending.
    """
    passed, failed = _border(tried)
    if failed is None:
        first = max(start, least) if passed is None else passed * factor
        following = [first * factor**step for step in range(count)]
    elif passed is None:
        # At the end of the way down, `least` itself is tried.
        following = _between(least, failed, count, close) or [least]
    else:
        following = _between(passed, failed, count, close)
    rounded = {max(float(f"{each:.3g}"), least) for each in following}
    return sorted(rounded - set(tried))


def _between(low: float, high: float, count: int, close: float) -> list[float]:
    """Compressions that divide an interval into equal ratios, not much smaller than `close`; none if it is that small.

    At most `count`.
    """
    if high / low <= close:
        return []
    needed = math.ceil(math.log(high / low) / math.log(close)) - 1
    parts = max(min(count, needed), 1) + 1
    return [low * (high / low) ** (part / parts) for part in range(1, parts)]


def remaining_looks(
    tried: Mapping[float, bool],
    count: int = 1,
    *,
    least: float = LEAST,
    factor: float = FACTOR,
    close: float = CLOSE,
) -> int:
    """Return about how many compressions `next_compressions` will still ask for; it describes the arguments."""
    passed, failed = _border(tried)
    climb = failed is None
    ratio = factor if failed is None else failed / (passed or least)
    divisions = math.ceil(math.log(max(math.log(ratio) / math.log(close), 1.0), count + 1)) if ratio > 1 else 0
    return count * (divisions + climb) + (passed is None and failed is not None and failed > least)


def least_compression(fits: Callable[[float], bool], largest: float) -> float:
    """Return the smallest compression whose plan fits the budgets, to about 1 %.

    Args:
        fits: whether the plan that is nearest to a compression fits all budgets.
        largest: compression at which the search gives up.

    Raises:
        TargetError: no plan up to `largest` fits.
    """
    low, high = 1.0, LEAST
    while not fits(high):
        if high >= largest:
            raise TargetError(
                "no network fits the budgets, with these floors, roundings and frozen channels; raise them"
            )
        low, high = high, min(high * 2, largest)
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        if fits(middle):
            high = middle
        else:
            low = middle
    return high
