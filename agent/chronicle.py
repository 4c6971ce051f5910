"""The chronicle: writes what this node has to tell into the cluster's log of events, without ever holding it up.

Whoever has something to tell leaves it in a bounded queue and goes on; a thread with an etcd client of its own writes.
While etcd does not answer events wait, but neither for ever nor without bound: what had to be dropped is counted, and
a later event says so. The same thing told again and again (a link that flaps) is told a few times and then counted.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from agent.clock import boottime
from gateway.errors import RbdgateError
from gateway.events import Event, Kind
from gateway.model import Label
from gateway.store.events import BATCH, wall_time

log = structlog.get_logger("chronicle")

QUEUE = 512
"""How many events may wait; the oldest go first."""

PATIENCE = 600.0
"""How long an event waits for etcd, in seconds."""

RETRY = 3.0
"""Seconds between two tries to write."""

ALIKE = 6
"""How often the same thing is told within ALIKE_WITHIN seconds."""

ALIKE_WITHIN = 600.0


class EventLog(Protocol):
    """Where events are written; raises what etcd's client raises."""

    def record(self, events: Sequence[Event]) -> None:
        """Add these events in their order."""
        ...


@dataclass(frozen=True)
class _Waiting:
    serial: int
    since: float
    event: Event


@dataclass
class _Alike:
    """When the same thing was told of late, and how often it was not since."""

    told: deque[float] = field(default_factory=deque)
    withheld: int = 0

    def is_old(self, now: float) -> bool:
        """Whether nothing of it counts any more."""
        return now - self.told[-1] >= ALIKE_WITHIN


class Chronicle(threading.Thread):
    """One node's pen. `tell` waits for no store and never raises; `clock` in seconds, `wall` as events carry it."""

    def __init__(
        self,
        store: EventLog,
        node: Label,
        *,
        clock: Callable[[], float] = boottime,
        wall: Callable[[], str] = wall_time,
    ) -> None:
        super().__init__(name="chronicle", daemon=True)
        self._store, self._node, self._clock, self._wall = store, node, clock, wall
        self._queue: deque[_Waiting] = deque()
        self._alike: dict[tuple[str, ...], _Alike] = {}
        self._changed = threading.Condition()
        self._serial = self._dropped = self._lost = 0
        self._complaint = ""
        self._forgot = 0.0

    def tell(self, event: Event) -> None:
        """Have an event written, soon, with this node as its author and the present time."""
        with self._changed:
            now = self._clock()
            said = self._withheld_unless_new(event, now)
            if said is None:
                return
            if len(self._queue) == QUEUE:
                self._queue.popleft()
                self._dropped += 1
                self._lost += 1
            self._serial += 1
            stamped = replace(said, who=said.who or str(self._node), time=said.time or self._wall())
            self._queue.append(_Waiting(self._serial, now, stamped))
            self._changed.notify_all()
        _log(stamped)

    def backlog(self) -> tuple[int, int]:
        """How many events wait, and how many could never be written, since this agent started."""
        with self._changed:
            return len(self._queue), self._lost

    def flush(self, seconds: float) -> None:
        """Wait until all is written, for so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue, seconds)

    def run(self) -> None:
        """Write whatever comes, for ever."""
        pause = threading.Event()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue))
            if not self.write():
                pause.wait(RETRY)

    def write(self) -> bool:
        """Write what waits, as much as one transaction takes; False if that failed and is to be tried again later."""
        with self._changed:
            batch = [self._queue[index] for index in range(min(len(self._queue), BATCH - 1))]
            confessed, lost = self._dropped, 0
        if not batch:
            return True
        events = [waiting.event for waiting in batch]
        try:
            self._store.record([self._confession(confessed), *events] if confessed else events)
        except RbdgateError as error:
            self._complain(str(error))
            return False
        except Exception:  # whatever is wrong with an event must end neither this thread nor the agent
            log.exception("bug in writing events; they are dropped")
            confessed, lost = 0, len(batch)
        with self._changed:
            self._dropped += lost - confessed
            self._lost += lost
            while self._queue and self._queue[0].serial <= batch[-1].serial:
                self._queue.popleft()
            self._complaint = ""
            self._changed.notify_all()
        return True

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            log.warning("events wait", error=reason)
            self._complaint = reason
        with self._changed:
            while self._queue and self._clock() - self._queue[0].since > PATIENCE:
                self._queue.popleft()
                self._dropped += 1
                self._lost += 1

    def _confession(self, dropped: int) -> Event:
        """What stands in the log for events that could not be written; it comes before the ones that could."""
        text = f"{dropped} earlier event{'s' if dropped != 1 else ''} of this node could not be written and are lost"
        return Event(Kind.OTHER, text, node=str(self._node), who=str(self._node), time=self._wall())

    def _withheld_unless_new(self, event: Event, now: float) -> Event | None:
        """The event, or None if its like was told often enough of late; the next one says how many were not."""
        key = (event.kind.value, event.image, event.node, re.sub(r"\d+", "#", event.text))
        if now - self._forgot >= ALIKE_WITHIN / 10:
            self._forgot = now
            self._alike = {k: seen for k, seen in self._alike.items() if k == key or not seen.is_old(now)}
        alike = self._alike.setdefault(key, _Alike())
        while alike.told and now - alike.told[0] >= ALIKE_WITHIN:
            alike.told.popleft()
        if len(alike.told) >= ALIKE:
            alike.withheld += 1
            return None
        alike.told.append(now)
        withheld, alike.withheld = alike.withheld, 0
        return replace(event, text=f"{event.text} (and {withheld} times before this, untold)") if withheld else event


def _log(event: Event) -> None:
    """The same event in this node's own log: a fault is a warning, and so is a fence, for something has died."""
    grave = event.kind in (Kind.FAULT, Kind.FENCE, Kind.ADDRESS)
    (log.warning if grave else log.info)(
        event.text,
        kind=event.kind.value,
        image=event.image,
        uid=event.uid,
        path=event.path or None,
        node=event.node,
        reason=event.why,
        trace=event.trace,
        seconds=event.seconds,
        **{f"{phase}_s": seconds for phase, seconds in event.phases.items()},
    )
