"""The lock that keeps writers to configfs apart: threads of one process, and the agent from the guard.

configfs has no locking between processes (one writer per node). The lock is a `flock` on a file under `/run`, which
the kernel drops when its holder dies. The file says who holds it, so that a holder that was stopped can be named, or
ended by its pid *and* start time.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import Stuck

_LOOK_AGAIN = 0.01
"""How often a lock held by another process is tried, in seconds: flock has no time-out of its own."""


@dataclass(frozen=True)
class LockHolder:
    """A process that holds the lock; `start` is its start time in clock ticks since boot (proc(5), stat field 22)."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"pid {self.pid}"


class ConfigfsLock:
    """The lock on one file. `clock` is monotonic, in seconds; `sleep` waits between two tries."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._clock = clock
        self._sleep = sleep
        self._threads = threading.Lock()

    @contextmanager
    def held(self, timeout: float) -> Iterator[None]:
        """Hold the lock within; raises Stuck, naming the holder, if it is not free within `timeout` seconds.

        It is not reentrant.
        """
        deadline = self._clock() + timeout
        if not self._threads.acquire(timeout=max(timeout, 0.0)):
            raise Stuck(f"another thread of this process kept the lock {self._path} for {timeout:g} s")
        try:
            descriptor = self._locked(deadline, timeout)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)
                os.close(descriptor)
        finally:
            self._threads.release()

    def holder(self) -> LockHolder | None:
        """Who holds the lock, if the file says so; None if it is free or was just taken."""
        try:
            pid, start = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return LockHolder(int(pid), int(start))

    def _locked(self, deadline: float, timeout: float) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try(descriptor):
                self._expect_time_left(deadline, timeout)
                self._sleep(_LOOK_AGAIN)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps([os.getpid(), start_time("self")]).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _expect_time_left(self, deadline: float, timeout: float) -> None:
        if self._clock() >= deadline:
            raise Stuck(f"{self.holder() or 'another process'} kept the lock {self._path} for {timeout:g} s")


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_time(pid: int | str) -> int | None:
    """When a process was started, as `LockHolder.start`; None if there is none of that pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])
