"""Whether Ceph answers this node: small reads of the anchor's object, and for how long none has been answered.

What counts is when the newest answered read was *sent*. Silence is counted only while this process was running: a
machine that was paused has not been unanswered. Before the first answer it is counted from the start: unknown is not
absent, for as long as `storage_doubt`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from agent.clock import boottime
from gateway.errors import Blocklisted, NotFound, RbdgateError
from gateway.timers import Timers

if TYPE_CHECKING:
    from agent.storage import StorageLink
    from gateway.storage import CephStorage

log = structlog.get_logger("reachability")


class Reachability:
    """The times of one node's reads, for any thread.

    `now` is always CLOCK_BOOTTIME; what is returned and compared is *running* time: seconds this process ran.
    """

    def __init__(self, timers: Timers, now: float) -> None:
        self._lock = threading.Lock()
        self._bound, self._probe = timers.storage_doubt, timers.storage_probe
        self._ticked, self._ran = now, 0.0
        self._answered = 0.0
        self._silent = -math.inf
        self._awaited: float | None = None
        self.pool: str | None = None
        """The anchor's pool, as soon as somebody has read which it is."""

    def running(self, now: float) -> float:
        """How long this process has been seen running, in seconds; a gap between two ticks counts as two periods."""
        with self._lock:
            return self._running(now)

    def tick(self, now: float) -> None:
        """The prober runs at this time."""
        with self._lock:
            self._ran, self._ticked = self._running(now), now
            self._judge(now)

    def expect_after(self, running: float) -> None:
        """Somebody waits for the first answer to a read that was sent after that running time."""
        with self._lock:
            self._awaited = running

    def answer(self, sent: float, now: float) -> bool:
        """The read that was sent at that running time was answered now; returns whether somebody waited for it."""
        with self._lock:
            self._judge(now)
            self._answered = max(self._answered, sent)
            found = self._awaited is not None and sent > self._awaited
            if found:
                self._awaited = None
            return found

    @property
    def answered(self) -> float:
        """The running time at which the newest answered read was sent."""
        return self._answered

    def silence(self, now: float) -> float:
        """For how many seconds nothing that was sent has been answered."""
        with self._lock:
            return self._silence(now)

    def doubted(self, now: float) -> bool:
        """Whether it is to be said that Ceph does not answer; it is unsaid after two periods of answers."""
        with self._lock:
            self._judge(now)
            return self._running(now) - self._silent < 2 * self._probe

    def _running(self, now: float) -> float:
        return self._ran + max(0.0, min(now - self._ticked, 2 * self._probe))

    def _silence(self, now: float) -> float:
        return self._running(now) - self._answered

    def _judge(self, now: float) -> None:
        if self._silence(now) >= self._bound:
            self._silent = self._running(now)


class Prober(threading.Thread):
    """Sends a read every `storage_probe` seconds, each in a thread of its own that may hang for as long as it likes."""

    def __init__(
        self,
        reachability: Reachability,
        link: StorageLink[CephStorage],
        *,
        timers: Timers,
        on_change: Callable[[], None],
        on_blocklisted: Callable[[CephStorage, str], None],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`on_change` hears of changed doubt and awaited answers, `on_blocklisted` of a connection that was fenced."""
        super().__init__(name="rados-prober", daemon=True)
        self._reachability, self._link, self._clock = reachability, link, clock
        self._period, self._most = timers.storage_probe, 2 + int(timers.rados_operation / timers.storage_probe)
        self._on_change, self._on_blocklisted = on_change, on_blocklisted
        self._under_way: set[threading.Thread] = set()
        self._storage: CephStorage | None = None
        self._doubted, self._error = False, ""

    def run(self) -> None:
        """Probe for as long as the process lives."""
        pause = threading.Event()
        while True:
            self.probe()
            pause.wait(self._period)

    def probe(self) -> None:
        """One tick, and one read if there is a connection and not too many of its reads hang."""
        now = self._clock()
        self._reachability.tick(now)
        doubted = self._reachability.doubted(now)
        if doubted != self._doubted:
            self._doubted = doubted
            log.warning("Ceph does not answer" if doubted else "Ceph answers again", last_error=self._error)
            self._on_change()
        storage, pool = self._link.storage, self._reachability.pool
        known = self._under_way if storage is self._storage else set[threading.Thread]()
        self._storage, self._under_way = storage, {thread for thread in known if thread.is_alive()}
        if storage is None or pool is None or len(self._under_way) >= self._most:
            return
        sent = self._reachability.running(now)
        self._under_way.add(self._begin(partial(self._read, storage, pool, sent)))

    def _begin(self, read: Callable[[], None]) -> threading.Thread:
        """Give the read a thread."""
        thread = threading.Thread(target=read, name="rados-probe", daemon=True)
        thread.start()
        return thread

    def _read(self, storage: CephStorage, pool: str, sent: float) -> None:
        try:
            storage.read_anchor(pool)
        except NotFound:
            pass  # Ceph has answered, and that is all that is asked here
        except Blocklisted as error:
            self._on_blocklisted(storage, str(error))
            return
        except RbdgateError as error:
            self._error = str(error)
            return
        if self._reachability.answer(sent, self._clock()):
            self._on_change()
