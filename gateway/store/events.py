"""The log of events in etcd: a ring of fixed slots and a counter, beside the prefix that every turn reads and watches.

One transaction writes the counter and the slots it counts, guarded by the counter's last revision, so it invalidates
its own guard and numbers are given once. Readers order events by the revision they were written at: that holds
whatever becomes of the counter. Garbage in a slot is counted and stepped over; the next lap overwrites it.

Writers of an older version have fewer slots, of which these are a multiple: beside them, as after them, what is written
over has that many newer events at least.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gateway.errors import BadInput, Conflict
from gateway.events import Event, read_event, write_event
from gateway.store.guarded import Etcd, GuardedStore
from gateway.store.values import Absent, Compare, KeyValue, ModRevisionIs, Put

SLOTS = 8192
"""How many events the log holds: what a crash of every holder of 1,000 images and their fail-back write, and more.

At 2 KiB at most for one it never takes more than 16 MiB; at the usual 250 to 640 bytes, 2 to 5. Whoever reads it reads
all of it, in pages: about a second's work.
"""

BATCH = 64
"""How many events one transaction may write."""

RACES = 16
"""How often a writer that was overtaken by another tries again."""

LARGEST_NUMBER = 10**18
"""Numbers from here on are garbage: no log ever gets there."""


def wall_time() -> str:
    """Now, as an event carries it: UTC by this machine's clock, which nothing is decided on."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Log:
    """What the log holds now, the newest last; `damaged` slots could not be read."""

    events: tuple[Event, ...]
    damaged: int


class EventStore(GuardedStore):
    """The door to a cluster's log; errors as the client's."""

    def __init__(self, client: Etcd, prefix: str, *, timeout: float = 5.0, slots: int = SLOTS) -> None:
        super().__init__(client, prefix, timeout=timeout)
        self._slots = slots

    def read(self) -> Log:
        """Everything the log holds, at one revision."""
        events, damaged = [], 0
        for item in self._client.range(self.keys.event_slots).items:
            try:
                events.append(read_event(item.value, item.key, revision=item.mod_revision))
            except BadInput:
                damaged += 1
        return Log(tuple(sorted(events, key=lambda event: (event.revision, event.number))), damaged)

    def last_change(self) -> int:
        """The revision of the last event that was written; 0 if there is none."""
        counter = self._client.get(self.keys.event_counter)
        return counter.mod_revision if counter else 0

    def record(self, events: Sequence[Event]) -> None:
        """Add these events (BATCH at most) in their order; Conflict if other writers were faster again and again."""
        key = self.keys.event_counter
        counter = self._client.get(key)
        for _ in range(RACES):
            first = self._next(counter)
            puts = [self._put(replace(event, number=first + index)) for index, event in enumerate(events)]
            guard: Compare = Absent(key) if counter is None else ModRevisionIs(key, counter.mod_revision)
            count = Put(key, str(first + len(events)).encode())
            outcome = self._transact([guard], [count, *puts], [key, puts[0].key])
            there = outcome.found.get(puts[0].key)
            if outcome.revision is not None or (there is not None and there.value == puts[0].value):
                return  # it ran, now or in a try whose answer was lost
            counter = outcome.found[key]
        raise Conflict(f"other writers of events were faster {RACES} times in a row; try again")

    def _put(self, event: Event) -> Put:
        return Put(self.keys.event_slot(event.number % self._slots), write_event(event))

    def _next(self, counter: KeyValue | None) -> int:
        """The number of the next event; where the counter is gone or damaged, one more than any there is."""
        if counter is not None and re.fullmatch(rb"[1-9][0-9]{0,17}", counter.value):
            return int(counter.value)
        numbers = (event.number for event in self.read().events)
        return max((number for number in numbers if number < LARGEST_NUMBER), default=0) + 1
