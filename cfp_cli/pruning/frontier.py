"""The search for the smallest network that passes a test: which compression to try next. Nothing is measured here.

A compression is the target (parameters or multiply-adds) of the original divided by that of a candidate. Loss mostly
grows with compression, but not everywhere, so the search claims nothing about compressions that it did not try: its
result is a candidate that passed. Of the candidates above one that failed, some pass by chance; they do not count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

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

BudgetedCost = Literal["params", "macs"]
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost.

    Attributes:
        cost: what is counted: `params` or `macs`.
        most: the largest allowed number.
    """

    cost: BudgetedCost
    most: int

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a text such as `params<=400k` or `macs<=12.5M`.

        Raises:
            UsageError: the text is not a budget, or its cost cannot be limited yet.
        """
        name, _, amount = (part.strip() for part in text.partition("<="))
        name = "macs" if name == "flops" else name
        if name in ("latency", "bytes"):
            raise UsageError(f"a budget of {name} is not supported yet; use --budget 'params<=N' or 'macs<=N'")
        number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)", amount.lower())
        if name not in ("params", "macs") or number is None:
            raise UsageError(f"'{text}' is not a budget; write --budget 'params<=400k' or 'macs<=12M'")
        most = int(float(number[1]) * _FACTORS[number[2]])
        if most < 1:
            raise UsageError(f"the budget '{text}' allows nothing; use a larger number")
        return cls("params" if name == "params" else "macs", most)

    def fits(self, params: int, macs: int) -> bool:
        """Whether a network with these costs is within the budget."""
        return (params if self.cost == "params" else macs) <= self.most

    def __str__(self) -> str:
        """Return the budget as text, such as `params<=400,000`."""
        return f"{self.cost}<={self.most:,}"


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


def next_compression(
    tried: Mapping[float, bool],
    *,
    least: float = LEAST,
    start: float = START,
    factor: float = FACTOR,
    close: float = CLOSE,
) -> float | None:
    """Return the compression to try next, or None if the border between passing and failing is known.

    The search multiplies the compression while candidates pass, then halves the interval between the smallest one that
    failed and the largest one below it that passed, on a logarithmic scale. If all fail, it goes down to `least`.

    Args:
        tried: whether a candidate passed, by compression. A compression that cannot be reached counts as failed.
        least: smallest compression, above or equal to which all candidates must be.
        start: the first compression to try.
        factor: factor between compressions while all candidates pass.
        close: largest ratio of the two sides of the border at which the search ends.

    Returns:
        A compression of at least `least` that is not in `tried`, or None.
    """
    passed, failed = _border(tried)
    if passed is None and failed is None:
        following = max(start, least)
    elif failed is None:
        assert passed is not None
        following = passed * factor
    elif passed is None:
        # At the end of the way down, `least` itself is tried.
        following = math.sqrt(least * failed) if failed / least > close else least
    elif failed / passed <= close:
        return None
    else:
        following = math.sqrt(passed * failed)
    rounded = max(float(f"{following:.3g}"), least)
    return None if rounded in tried else rounded


def remaining_looks(
    tried: Mapping[float, bool], *, least: float = LEAST, factor: float = FACTOR, close: float = CLOSE
) -> int:
    """Return about how many compressions `next_compression` will still ask for; it describes the arguments."""
    passed, failed = _border(tried)
    climb = failed is None
    ratio = factor if failed is None else failed / (passed or least)
    halvings = math.ceil(math.log2(max(math.log(ratio) / math.log(close), 1.0))) if ratio > 1 else 0
    return halvings + climb + (passed is None and failed is not None and failed > least)


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
