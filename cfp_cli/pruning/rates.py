"""Rates for each channel set: the published syntax, one rate a set in network order, or rates by name pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from cfp_cli.foundation.errors import UsageError

TERM = re.compile(r"\[\s*(\d*\.?\d+|\d+\.)\s*\](?:\s*\*\s*(\d+))?")


def parse_rates(text: str, names: Sequence[str]) -> dict[str, float]:
    """Read rates (fractions removed, in [0, 1)) for the prunable sets `names`.

    There are two forms. `[0.]+[0.25]*6+[0.35]*14` has exactly one rate for each set in network order.
    `layer1.*=0.5,layer2.*=0.7` matches the sets' names by shell pattern. The last match counts, and sets without a
    match keep all channels.

    Raises:
        UsageError: the text is neither, a rate is out of range, the count is wrong, or a pattern matches nothing.
    """
    if "=" in text:
        rates = dict.fromkeys(names, 0.0)
        for term in text.split(","):
            pattern, _, value = term.partition("=")
            matches = [name for name in names if fnmatchcase(name, pattern.strip())]
            if not matches:
                raise UsageError(f"--rates pattern '{pattern.strip()}' matches no channel set; see `cfp inspect`")
            rates.update(dict.fromkeys(matches, _rate(value)))
        return rates
    listed: list[float] = []
    for term in text.split("+"):
        match = TERM.fullmatch(term.strip())
        if match is None:
            raise UsageError(f"--rates term '{term}' is not like [0.25] or [0.25]*6")
        listed.extend([_rate(match[1])] * int(match[2] or 1))
    if len(listed) != len(names):
        raise UsageError(
            f"--rates has {len(listed)} rates but the network has {len(names)} prunable sets; see `cfp inspect`"
        )
    return dict(zip(names, listed, strict=True))


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"rate '{text.strip()}' is not in [0, 1); 0.5 removes half")
    return value
