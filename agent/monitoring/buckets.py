"""The bounds of every histogram, in seconds. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""For one request and one commit."""

LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 60.0)
"""For what stalls an initiator."""


@dataclass
class Spread:
    """A histogram that is written down: `counts` per bucket, the last one for what is above all bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(QUICK) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(QUICK, seconds)] += 1
        self.total += seconds


def cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    """The buckets as Prometheus wants them: by upper bound, each with all below it."""
    found, below = [], 0
    for bound, count in zip((*map(str, QUICK), "+Inf"), counts, strict=True):
        below += count
        found.append((bound, float(below)))
    return found
