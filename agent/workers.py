"""Workers: each image's steps run in order in one thread, so that an image that hangs or fails stops no other.

A worker that hangs keeps only its own image from being planned anew. A failure is remembered for the report and
postpones that image's next try, longer each time; a success forgets it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from agent.clock import boottime
from gateway.errors import RbdgateError, TenureOver

log = structlog.get_logger("workers")


@dataclass(frozen=True)
class Failure:
    """The last failure of an image's steps: why, how often in a row, and when to try again (CLOCK_BOOTTIME)."""

    reason: str
    count: int
    not_before: float


class Workers:
    """A bounded set of threads with at most one piece of work per key."""

    def __init__(self, *, threads: int, retry_first: float, retry_last: float, on_done: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="image")
        self._retry_first, self._retry_last, self._on_done = retry_first, retry_last, on_done
        self._lock = threading.Lock()
        self._running: dict[str, Future[None]] = {}
        self._failures: dict[str, Failure] = {}

    def submit(self, key: str, work: Callable[[], None]) -> bool:
        """Start the work unless the key is busy or its last failure is too recent."""
        now = boottime()
        with self._lock:
            failure = self._failures.get(key)
            if key in self._running or (failure is not None and now < failure.not_before):
                return False
            self._running[key] = self._pool.submit(self._work, key, work)
        return True

    def busy(self) -> frozenset[str]:
        """The keys whose work has not come back."""
        with self._lock:
            return frozenset(self._running)

    def error(self, key: str) -> str | None:
        """Why the key's last work failed; None if it did not."""
        with self._lock:
            failure = self._failures.get(key)
        return failure.reason if failure else None

    def next_retry(self, now: float, longest: float) -> float:
        """Seconds until the first postponed key may be tried again."""
        with self._lock:
            waits = [failure.not_before - now for failure in self._failures.values()]
        return max(0.0, min([longest, *(wait for wait in waits if wait > 0)]))

    def _work(self, key: str, work: Callable[[], None]) -> None:
        failure: Failure | None = None
        try:
            work()
        except RbdgateError as error:
            failure = self._failed(key, error)
        except Exception as error:  # a bug in one image's steps must not stop the others: log, retry
            log.exception("bug in a step", image=key)
            failure = self._failed(key, error)
        with self._lock:
            self._failures.pop(key, None)
            if failure is not None:
                self._failures[key] = failure
            self._running.pop(key, None)
        self._on_done()

    def _failed(self, key: str, error: Exception) -> Failure:
        with self._lock:
            before = self._failures.get(key)
        count = 1 if before is None else before.count + 1
        pause = min(self._retry_last, self._retry_first * 2 ** min(count - 1, 16))
        if isinstance(error, TenureOver):
            pause = self._retry_first
        log.warning("image failed", image=key, error=str(error), kind=type(error).__name__, tries=count, retry_in=pause)
        return Failure(str(error) or type(error).__name__, count, boottime() + pause)
