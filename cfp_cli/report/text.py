"""Figures, dates and plain data as text for the page and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from cfp_cli.measuring.intervals import Interval


def percent(value: float) -> str:
    """Format a fraction as a percentage with one decimal."""
    return f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def range_of(interval: Interval) -> str:
    """Format an interval of fractions in percent, without the sign."""
    return f"{interval.low * 100:.1f} to {interval.high * 100:.1f}"


def points(value: float) -> str:
    """Format a difference of fractions in percentage points, with its sign."""
    rounded = round(value * 100, 1)
    return "±0.0" if rounded == 0 else f"{'+' if rounded > 0 else '−'}{abs(rounded):.1f}"


def times(before: float, after: float) -> str:
    """Format how many times smaller a value has become."""
    ratio = before / after if after else float("inf")
    return f"{ratio:.1f}×" if ratio < 100 else f"{ratio:.0f}×"


def speed(before: float, after: float) -> str:
    """Format how many times faster or slower."""
    return f"{times(before, after)} faster" if after <= before else f"{times(after, before)} slower"


def date(text: str) -> str:
    """Format a date and time in ISO 8601 in UTC, such as `3 March 2026, 14:05 UTC`; other text stays."""
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def plain(value: object) -> str:
    """Format plain data in words: lists with commas, mappings as `name: value`, no brackets or quotes."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{str(name).replace('_', ' ')}: {plain(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(each) for each in value) or "none"
    return str(value)
