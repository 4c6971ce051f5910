"""The guard's figures, in a small file in `/run`: counted by the guard, written once a second, read by the agent.

The guard is another process, and a scrape waits for nobody. A file that is old, missing, too large or damaged says
nothing: its figures are unknown then, never 0.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.monitoring.buckets import QUICK, Spread
from agent.monitoring.tables import Table
from gateway.errors import LostRace
from gateway.reasons import FailureKind, kind_of
from gateway.timers import GUARD_STALE

LARGEST = 4 << 20
"""The most bytes of the file that are read: 1,000 images take some 100 KiB."""


@dataclass(frozen=True)
class GuardWord:
    """What the guard last wrote; `time` on CLOCK_BOOTTIME, `started` Unix time, both in seconds."""

    time: float
    started: float
    held: int = 0
    oldest: float = 0.0
    cut: bool = False
    mounted: bool = False
    requests: int = 0
    cuts: int = 0
    condemned: int = 0
    lost_races: int = 0
    seconds: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(QUICK) + 1)
    commits: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[FailureKind, int] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


class GuardFigures:
    """Counts what the guard does; for any thread. `clock` is CLOCK_BOOTTIME, `started` Unix time."""

    def __init__(self, clock: Callable[[], float], started: float) -> None:
        self._clock, self._started = clock, started
        self._lock = threading.Lock()
        self._waiting: dict[int, float] = {}
        self._number = self._cuts = self._condemned = self._lost = 0
        self._spread = Spread()
        self._commits: dict[str, int] = {}
        self._failures = {kind.value: 0 for kind in FailureKind}
        """All of them from the start: what appears with its first count has not risen, to who looks at its rise."""
        self._tables: dict[str, Table] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the time that one write of the kernel's is not answered."""
        with self._lock:
            self._number += 1
            number = self._number
            self._waiting[number] = self._clock()
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[number]

    def committed(self, uid: str, seconds: float) -> None:
        """A change was recorded."""
        with self._lock:
            self._commits[uid] = self._commits.get(uid, 0) + 1
            self._spread.add(seconds)

    def failed(self, error: Exception | None) -> None:
        """A change could not be recorded in time; None: nothing had come back by then."""
        kind = FailureKind.STORAGE if error is None else kind_of(type(error))
        with self._lock:
            self._failures[kind.value] = self._failures.get(kind.value, 0) + 1
            self._lost += isinstance(error, LostRace)

    def condemned(self, uid: str) -> None:
        """An image was taken off the air."""
        with self._lock:
            self._condemned += 1
            self._tables.pop(uid, None)

    def cut(self) -> None:
        """The tenure was over with portals up, which were cut."""
        with self._lock:
            self._cuts += 1

    def forget(self, uid: str) -> None:
        """An image's table is not the one that was recorded here last."""
        with self._lock:
            self._tables.pop(uid, None)

    def table(self, uid: str, table: Table) -> None:
        """What is recorded of an image now."""
        with self._lock:
            self._tables[uid] = table

    def text(self, now: float, *, cut: bool, mounted: bool, requests: int) -> str:
        """The file's text at `now`; `cut` while the tenure is over, `mounted` while changes are caught."""
        with self._lock:
            return json.dumps(
                {
                    "time": now,
                    "started": self._started,
                    "held": len(self._waiting),
                    "oldest": max(0.0, now - min(self._waiting.values(), default=now)),
                    "cut": cut,
                    "mounted": mounted,
                    "requests": requests,
                    "cuts": self._cuts,
                    "condemned": self._condemned,
                    "lost_races": self._lost,
                    "seconds": self._spread.total,
                    "buckets": self._spread.counts,
                    "commits": self._commits,
                    "failures": self._failures,
                    "tables": {uid: [t.registrations, t.reserved, t.size] for uid, t in self._tables.items()},
                }
            )


def read_word(path: Path, now: float) -> GuardWord | None:
    """The guard's word at `now` on CLOCK_BOOTTIME; None if there is none that is fresh and whole."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        word = _parse(json.loads(text)) if len(text) <= LARGEST else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return word if word is not None and abs(now - word.time) < GUARD_STALE else None


def _parse(form: Mapping[str, object]) -> GuardWord:
    buckets = _list(form["buckets"])
    if len(buckets) != len(QUICK) + 1:
        raise ValueError("other bounds than ours")
    return GuardWord(
        time=_number(form["time"]),
        started=_number(form["started"]),
        oldest=_number(form["oldest"]),
        seconds=_number(form["seconds"]),
        cut=form["cut"] is True,
        mounted=form["mounted"] is True,
        buckets=tuple(map(_count, buckets)),
        commits={uid: _count(count) for uid, count in _dict(form["commits"]).items()},
        failures={FailureKind(kind): _count(count) for kind, count in _dict(form["failures"]).items()},
        tables={uid: _table(_list(table)) for uid, table in _dict(form["tables"]).items()},
        **{key: _count(form[key]) for key in ("held", "requests", "cuts", "condemned", "lost_races")},
    )


def _table(form: list[object]) -> Table:
    registrations, reserved, size = form
    return Table(_count(registrations), reserved is True, _count(size))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value
