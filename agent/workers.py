"""Workers: each image's steps run in order in one thread, so that an image that hangs or fails stops no other.

A worker that hangs keeps only its own image from being planned anew: after a while it gives its slot to the next, so
that a pool that hangs does not hold up the images of another. The threads die with the process, whatever they wait
for. A failure is remembered for the report and postpones that image's next try, longer each time; a success forgets it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Set
from dataclasses import dataclass

import structlog

from agent.clock import boottime
from gateway.errors import RbdgateError, TenureOver

log = structlog.get_logger("workers")

SLOW = 5.0
"""Work that has not come back after so many seconds does not count among those at work any more."""


@dataclass(frozen=True)
class Failure:
    """The last failure of an image's steps: why, how often in a row, and when to try again (CLOCK_BOOTTIME)."""

    reason: str
    count: int
    not_before: float
    kind: type[Exception]
    since: float
    """When the first failure of this row was."""


class Workers:
    """Threads, `slots` of them at work at a time (and those that hang), with at most one piece of work per key."""

    def __init__(
        self,
        *,
        slots: int,
        retry_first: float,
        retry_last: float,
        on_done: Callable[[], None],
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._slots, self._clock = slots, clock
        self._retry_first, self._retry_last, self._on_done = retry_first, retry_last, on_done
        self._lock = threading.Lock()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._began: dict[str, float] = {}
        self._failures: dict[str, Failure] = {}

    def submit(self, key: str, work: Callable[[], None]) -> bool:
        """Start the work as soon as there is a slot, unless the key is busy or its last failure is too recent."""
        with self._lock:
            failure = self._failures.get(key)
            postponed = failure is not None and self._clock() < failure.not_before
            accepted = not postponed and key not in self._began and key not in self._waiting
            if accepted:
                self._waiting[key] = work
            self._fill_slots()
        return accepted

    def busy(self) -> frozenset[str]:
        """The keys whose work has not come back."""
        with self._lock:
            self._fill_slots()
            return frozenset((*self._began, *self._waiting))

    def count(self) -> int:
        """How many keys are busy; unlike `busy` this begins nothing, so that whoever measures drives no work."""
        with self._lock:
            return len(self._began) + len(self._waiting)

    def error(self, key: str) -> str | None:
        """Why the key's last work failed; None if it did not."""
        with self._lock:
            failure = self._failures.get(key)
        return failure.reason if failure else None

    def failing(self, kinds: tuple[type[Exception], ...]) -> dict[str, float]:
        """Since when keys have done nothing but fail, the last time for a reason of these kinds."""
        with self._lock:
            return {key: failure.since for key, failure in self._failures.items() if issubclass(failure.kind, kinds)}

    def forget_failures_but(self, keys: Set[str]) -> None:
        """Forget the failures of all other keys: nothing is to be done for them any more, so nothing is wrong."""
        with self._lock:
            self._failures = {key: failure for key, failure in self._failures.items() if key in keys}

    def next_retry(self, now: float, longest: float) -> float:
        """Seconds until the first postponed key may be tried again."""
        with self._lock:
            waits = [failure.not_before - now for failure in self._failures.values()]
        return max(0.0, min([longest, *(wait for wait in waits if wait > 0)]))

    def _fill_slots(self) -> None:
        """Begin what waits, in its order, while there are slots; whoever looks or asks for work drives this."""
        now = self._clock()
        free = self._slots - sum(now - began < SLOW for began in self._began.values())
        for key in list(self._waiting)[: max(0, free)]:
            work = self._waiting.pop(key)
            self._began[key] = now
            self._start(key, work)

    def _start(self, key: str, work: Callable[[], None]) -> None:
        """Give the work a thread."""
        threading.Thread(target=self._work, args=(key, work), name=f"work-{key}", daemon=True).start()

    def _work(self, key: str, work: Callable[[], None]) -> None:
        failure: Failure | None = None
        try:
            work()
        except RbdgateError as error:
            failure = self._failed(key, error)
        except Exception as error:  # a bug in one image's steps must not stop the others: log, retry
            log.exception("bug in a step", key=key)
            failure = self._failed(key, error)
        with self._lock:
            self._failures.pop(key, None)
            if failure is not None:
                self._failures[key] = failure
            del self._began[key]
            self._fill_slots()
        self._on_done()

    def _failed(self, key: str, error: Exception) -> Failure:
        with self._lock:
            before = self._failures.get(key)
        now = self._clock()
        count, since = (1, now) if before is None else (before.count + 1, before.since)
        pause = min(self._retry_last, self._retry_first * 2 ** min(count - 1, 16))
        if isinstance(error, TenureOver):
            pause = self._retry_first
        log.warning("image failed", key=key, error=str(error), kind=type(error).__name__, tries=count, retry_in=pause)
        return Failure(str(error) or type(error).__name__, count, now + pause, type(error), since)
