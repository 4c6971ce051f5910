"""The trap: each change of an image's reservations is recorded in the image before the initiator hears of it.

LIO writes its table to `<dbroot>/pr/aptpl_<serial>` before it answers a PERSISTENT RESERVE OUT; there the guard has a
file system of its own, and a write returns when the change is recorded (`gateway.reservations.recording`). An error is
no answer: the kernel says GOOD all the same to all but REGISTER. So a change that cannot be recorded in time is held
until the image is off the air: marked as condemned, cut, its addresses off; only then is the write answered, and nobody
hears it. The agent sees the mark and exports the image anew from what is recorded.

Rule: no write is answered while a portal of its image is up, unless it is recorded.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog

from agent.monitoring.guard_file import GuardFigures
from gateway.errors import (
    Conflict,
    KernelRefused,
    OutcomeUnknown,
    RbdgateError,
    StorageUnavailable,
    Stuck,
    Unavailable,
)
from gateway.events import trace_of
from gateway.lio.exports import Export
from gateway.model import Address
from gateway.reservations.telling import RESTORED

log = structlog.get_logger("trap")

AGAIN = 0.1
"""How long, in seconds, until something that may pass (Ceph silent, the kernel busy) is tried again."""

NOTHING_SAID = b"\0"
"""The text of a kernel that has written none: the table alone is to be read."""

_PASSING = (Conflict, KernelRefused, OutcomeUnknown, StorageUnavailable, Stuck, Unavailable)


class Exports(Protocol):
    """What the trap needs of the kernel."""

    def find(self, serial: str) -> Export | None:
        """The export with that unit serial; None if none of ours has it."""
        ...

    def portals(self, export: Export) -> frozenset[Address]:
        """The addresses of the export's portals."""
        ...

    def silence(self, addresses: frozenset[Address]) -> None:
        """Cut these addresses and take them off; raises unless none of them is on this node afterwards."""
        ...

    def condemn(self, uid: str, reason: str) -> None:
        """Leave the mark that the image is to be exported anew."""
        ...


Recorder = Callable[[Export, bytes, bytes | None], bytes]
"""Records the kernel's table of an export: the kernel's text, and what was recorded last, to what is recorded now."""


class NotCondemned(Exception):
    """An image could not be marked, so the agent may open it again: no place for a guard to go on. Its end cuts all."""


@dataclass
class _Held:
    """Something that is tried in a thread of its own: it went well only if it says so itself, whatever it ended in."""

    done: threading.Event = field(default_factory=threading.Event)
    well: bool = False
    failed: Exception | None = None

    def run(self, act: Callable[[], None]) -> None:
        """Try it, in the thread; a bug is a failure, too."""
        try:
            act()
            self.well = True
        except Exception as error:  # a bug, too, must not count as done: it is told as the reason
            self.failed = error
            if not isinstance(error, RbdgateError):
                log.exception("a bug")
        finally:
            self.done.set()

    def why_not(self, late: str) -> str:
        """What it failed for; `late` if it has not ended."""
        if self.failed is None:
            return late
        return str(self.failed) if isinstance(self.failed, RbdgateError) else f"{type(self.failed).__name__}, a bug"


class Trap:
    """Answers the kernel's writes.

    `hold` is how long one may wait, in seconds; `clock` is monotonic; `restored` gives the `pr_info` that an export was
    restored from, if that is known.
    """

    def __init__(
        self,
        exports: Exports,
        recorder: Recorder,
        *,
        hold: float,
        clock: Callable[[], float] = time.monotonic,
        figures: GuardFigures | None = None,
        restored: Callable[[Export], bytes | None] = lambda _: None,
    ) -> None:
        self.figures = figures or GuardFigures(clock, 0.0)
        self._exports, self._recorder, self._restored = exports, recorder, restored
        self._hold, self._clock = hold, clock
        self._lock = threading.Lock()
        self._of_export: dict[str, threading.Lock] = {}
        self._known: dict[str, bytes] = {}
        self._pause = threading.Event()

    def on_text(self, name: str, text: bytes) -> None:
        """Return when that write of the kernel's may be answered."""
        prefix, _, serial = name.partition("_")
        if prefix != "aptpl" or not serial:
            return  # a file that somebody else made here
        began = self._clock()
        with self.figures.waiting():
            export = self._export_of(serial, began + self._hold)
            if export is None:
                log.warning("a change of reservations of no image of ours", serial=serial)
                return
            if text == RESTORED:
                self._forget(export)
                whole = self._restored(export)
                if whole is not None:
                    self.remember(export, whole)
                return
            held = self._start(export, text, began + self._hold)
            held.done.wait(max(0.0, began + self._hold - self._clock()))
            if held.well:
                took = self._clock() - began
                self.figures.committed(export.device.uid, took)
                said = {"uid": export.device.uid, "trace": _trace(export)}
                log.info("reservations recorded", **said, seconds=round(took, 3))
                return
            self.figures.failed(held.failed)
            why = held.why_not(f"it was not done within {self._hold:g} s")
            self.condemn(export, f"a change of its reservations could not be recorded: {why}")

    def condemn(self, export: Export, reason: str) -> None:
        """Take an image off the air; returns when nothing of it can be heard. NotCondemned if it cannot be marked."""
        log.error("image condemned", uid=export.device.uid, reason=reason, trace=_trace(export))
        self.figures.condemned(export.device.uid)
        self._forget(export)
        self._insist(lambda: self._exports.condemn(export.device.uid, reason), self._clock() + self._hold)
        self._silence(export)

    def salvage(
        self, exports: Iterable[Export], reason: str, said: Callable[[Export], bytes] = lambda _: NOTHING_SAID
    ) -> None:
        """Condemn exports whose changes nobody caught for a while, after recording what was acknowledged meanwhile.

        With the portals cut, the kernel's table has all that was. Of an export that was never seen whole it may lack
        what is not restored yet, so there what is on record counts. `said` is what the kernel wrote last, if that can
        be found. No path may be opened while this goes on.
        """
        exports = tuple(exports)
        for export in exports:
            self._silence(export)
        deadline = self._clock() + self._hold
        started = [
            (export, self._start(export, said(export), deadline))
            for export in exports
            if str(export.device) in self._known
        ]
        for export, held in started:
            held.done.wait(max(0.0, deadline - self._clock()))
            told = {"uid": export.device.uid, "trace": _trace(export)}
            if held.well:
                log.warning("recorded what nobody had caught", **told)
            else:
                log.error("not recorded what nobody had caught", reason=held.why_not("not in time"), **told)
        for export in exports:
            self.condemn(export, reason)

    def remember(self, export: Export, text: bytes) -> None:
        """Take what is recorded of an export for what this node wrote last."""
        self._known[str(export.device)] = text

    def _start(self, export: Export, text: bytes, deadline: float) -> _Held:
        """Begin to record the table."""
        held, name = _Held(), f"record-{export.device.uid}"
        words = (lambda: self._record(export, text, deadline),)
        threading.Thread(target=held.run, args=words, name=name, daemon=True).start()
        return held

    def _record(self, export: Export, text: bytes, deadline: float) -> None:
        """Record the table, again while that may help; one at a time of each export."""
        with self._of(export):
            while True:
                try:
                    written = self._recorder(export, text, self._known.get(str(export.device)))
                except _PASSING as error:
                    told = {"uid": export.device.uid, "trace": _trace(export)}
                    log.warning("reservations not recorded", reason=str(error), **told)
                    if self._clock() + AGAIN >= deadline:
                        raise
                    self._pause.wait(AGAIN)
                else:
                    if self._clock() < deadline:  # else the image was condemned meanwhile, and may be built anew by now
                        self.remember(export, written)
                    return

    def _export_of(self, serial: str, deadline: float) -> Export | None:
        while True:
            try:
                return self._exports.find(serial)
            except KernelRefused:
                if self._clock() >= deadline:
                    raise  # which image this is about is unknown: the guard ends, and its end cuts all of them
                self._pause.wait(AGAIN)

    def _of(self, export: Export) -> threading.Lock:
        """One lock for each export, which its successor under another claim does not wait for."""
        with self._lock:
            return self._of_export.setdefault(str(export.device), threading.Lock())

    def _forget(self, export: Export) -> None:
        self._known.pop(str(export.device), None)
        self.figures.forget(export.device.uid)

    def _silence(self, export: Export) -> None:
        self._insist(lambda: self._exports.silence(self._exports.portals(export)))

    def _insist(self, act: Callable[[], None], deadline: float = math.inf) -> None:
        """Do it until it is done: whoever waits for this may not be answered before."""
        while True:
            try:
                return act()
            except (RbdgateError, OSError) as error:
                log.warning("cannot take the image off the air yet", error=str(error))
                if self._clock() >= deadline:
                    raise NotCondemned(str(error)) from error
                self._pause.wait(AGAIN)


def _trace(export: Export) -> str:
    return trace_of(export.device.token)


def reconcile(trap: Trap, exports: Iterable[Export], compare: Callable[[Export], bytes], bound: float) -> None:
    """Hold every export against what is recorded, all at once, and condemn what differs or is not known in time.

    `compare` returns the recorded text or raises; `bound` in seconds is for all of them. To be called before a path may
    be opened: of what the guard did not see, the kernel may have said GOOD to nobody but itself.
    """
    pending = [(export, _Held()) for export in exports]
    deadline = time.monotonic() + bound
    for export, held in pending:
        words = (partial(_compare, trap, export, compare, deadline),)
        threading.Thread(target=held.run, args=words, name=f"compare-{export.device.uid}", daemon=True).start()
    for export, held in pending:
        held.done.wait(max(0.0, deadline - time.monotonic()))
        if not held.well:
            late = f"they could not be compared within {bound:g} s"
            trap.condemn(export, f"its reservations are not the recorded ones: {held.why_not(late)}")


def _compare(trap: Trap, export: Export, compare: Callable[[Export], bytes], deadline: float) -> None:
    pause = threading.Event()
    while True:
        try:
            return trap.remember(export, compare(export))
        except _PASSING:  # a new guard has no connection to Ceph yet
            if time.monotonic() + AGAIN >= deadline:
                raise
            pause.wait(AGAIN)
