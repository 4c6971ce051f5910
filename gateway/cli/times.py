"""Recorded times as people read them: in their own zone with its offset, and how long ago. Pure."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def moment(recorded: str) -> datetime | None:
    """The time that an event or a report carries; None if it is none, or has no zone."""
    try:
        found = datetime.fromisoformat(recorded)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo is not None else None


def local(recorded: str, now: datetime) -> str:
    """The time in the zone of `now`, to the millisecond; what is no time as it stands."""
    found = moment(recorded)
    if found is None:
        return recorded or "?"
    return found.astimezone(now.tzinfo).isoformat(" ", "milliseconds")


def told(recorded: str, now: datetime) -> str:
    """The time in the zone of `now`, to the second, and how long before it was; what is no time as it stands."""
    found = moment(recorded)
    if found is None:
        return recorded or "?"
    when = found.astimezone(now.tzinfo).isoformat(" ", "seconds")
    return f"{when} ({age(found, now)})"


def age(then: datetime, now: datetime) -> str:
    """How long ago, in its two largest units; clocks that differ can put it into the future."""
    seconds = round((now - then).total_seconds())
    if seconds < 0:
        return f"{-seconds} s from now: clocks differ"
    for (unit, size), (finer, part) in pairwise(_UNITS):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {finer} ago"
    return f"{seconds} s ago"
