"""Changes of reservations and takeovers in every order: who was told GOOD must be in what the taker restores.

Two gateways share one image's header. On the first, initiators register; each PERSISTENT RESERVE OUT goes the kernel's
way: the table changes, the text is made, the text is written (and an older one may come after a newer one), the answer
goes out if a portal is up. The second takes over at any moment; the first may be paused at any point and go on. The
code that records and takes over is the product's (`record`, `take_over`); header and table are in memory, with a point
before and after each access at which any other actor may go on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest import mock

import rados
from greenlet import getcurrent, greenlet

from gateway.errors import Conflict, RbdgateError
from gateway.images.header import HeaderState, ImageHeader, take_over
from gateway.images.holder import Holder
from gateway.lio.exports import Export
from gateway.model import Instance, Iqn, Label
from gateway.observed import DeviceName
from gateway.reservations import pr_info, recording
from gateway.reservations.recording import Ports
from gateway.reservations.state import Nexus, Registration, ReservationState

TARGET = Iqn("iqn.2026-11.io.rbdgate:race")
EXPORT = Export(DeviceName("00000000000000a1", 11), "/dev/rbd0", TARGET)
FIRST = Holder(11, Label("gw1"), (Instance("10.0.0.1:0/1"),))
SECOND = Holder(12, Label("gw2"), (Instance("10.0.0.2:0/2"),))


def registration(number: int) -> Registration:
    """One initiator's, by its number."""
    return Registration(Nexus(Iqn(f"iqn.2026-11.io.rbdgate:i{number}"), f"{number:012x}", TARGET, 1), number)


@dataclass
class Ways:
    """How the first gateway and the taker go about it; each default is right, each other value is a planted bug."""

    answer: str = "recorded"
    """`recorded`; `first`: before anything is recorded."""
    failed: str = "silent"
    """`silent`: the portal goes before the answer; `error`: it stays, and the kernel says GOOD all the same."""
    recorded: str = "table"
    """`table`: as read after the text came; `text`: what the text says."""
    restored: str = "swap"
    """`swap`: what the taker's own swap wrote; `read`: what it read."""


@dataclass
class Header:
    """The header object; each access has a point before it, and a write one after it, too."""

    point: Callable[[], None]
    holder: Holder | None = FIRST
    text: bytes = pr_info.EMPTY
    version: int = 1

    def read(self) -> HeaderState:
        """Both xattrs and the version."""
        self.point()
        return HeaderState(self.holder, self.text, self.version)

    def swap(self, seen: HeaderState, *, holder: Holder, pr_info: bytes | None) -> None:
        """Both, if the version is still that one."""
        self._write(seen.version, holder, pr_info)

    def write_guarded(self, version: int, fill: Callable[[rados.WriteOp], None]) -> None:
        """What `fill` sets."""
        operation = mock.Mock()
        fill(operation)
        ((_, text), _) = operation.set_xattr.call_args
        self._write(version, self.holder, text)

    def _write(self, version: int, holder: Holder | None, text: bytes | None) -> None:
        self.point()
        if self.version != version:
            raise Conflict("the header changed since it was read")
        self.holder, self.version = holder, version + 1
        self.text = self.text if text is None else text
        self.point()


@dataclass
class World:
    """One schedule: the actors, what the kernel of the first gateway has, and who was told what."""

    draw: random.Random
    ways: Ways
    table: tuple[Registration, ...] = ()
    portal_up: bool = True
    told: set[int] = field(default_factory=set)
    restored: ReservationState | None = None
    actors: list[greenlet] = field(default_factory=list)
    known: bytes | None = None
    recording_by: greenlet | None = None

    def __post_init__(self) -> None:
        self.header = Header(self.point)
        self.conductor = getcurrent()

    def point(self) -> None:
        """Let any other actor go on."""
        self.conductor.switch()

    def run(self, *acts: Callable[[], None]) -> None:
        """All of them to their ends, in an order that is drawn at each point."""
        self.actors = [greenlet(act) for act in acts]
        while alive := [actor for actor in self.actors if not actor.dead]:
            self.draw.choice(alive).switch()

    def register(self, number: int) -> None:
        """One PERSISTENT RESERVE OUT, REGISTER, in the kernel of the first gateway."""
        self.table = (*self.table, registration(number))
        self.point()
        text = self.table
        self.point()
        if self.ways.answer == "first":
            self.answer(number)
        try:
            self.record(text)
        except RbdgateError:
            if self.ways.failed == "silent":
                self.portal_up = False
        self.point()
        self.answer(number)

    def answer(self, number: int) -> None:
        """GOOD, if anybody can hear it."""
        if self.portal_up:
            self.told.add(number)

    def record(self, text: tuple[Registration, ...]) -> None:
        """What the guard does with a text, one at a time."""
        while self.recording_by is not None:
            self.point()
        self.recording_by = getcurrent()
        try:
            with self.kernel(text):
                self.known = recording.record(
                    EXPORT, as_header(self.header), FIRST.node, b"\0", known=self.known, now=1, timeout=1.0,
                    expect_whole=lambda: None,
                )  # fmt: skip
        finally:
            self.recording_by = None

    @contextmanager
    def kernel(self, text: tuple[Registration, ...]) -> Iterator[None]:
        """The kernel's table where `record` looks for it; the point is before the look, which is one moment."""

        def read(*_: object, **__: object) -> ReservationState:
            found = text
            if self.ways.recorded == "table":
                self.point()
                found = self.table
            return ReservationState(registrations=found)

        every = frozenset(registration(number).nexus.initiator for number in range(1, 9))
        ports = Ports(TARGET, {1: 1}, {1: every})
        with (
            mock.patch.object(recording, "read_state", read),
            mock.patch.object(recording.Ports, "of", return_value=ports),
        ):
            yield

    def take_over(self) -> None:
        """The second gateway's takeover, the first still going on as far as it can."""
        header = as_header(self.header)
        seen = header.read()
        text = take_over(header, seen.holder, SECOND)
        self.restored = pr_info.decode(text if self.ways.restored == "swap" else seen.pr_info or b"")

    def lost(self) -> set[int]:
        """Who was told GOOD and is not in what was restored."""
        assert self.restored is not None
        return self.told - {each.key for each in self.restored.registrations}


def as_header(header: Header) -> ImageHeader:
    """The fake where the real one is asked for: the same three methods."""
    return header  # type: ignore[return-value] # a dataclass of the product's has no protocol


def search(ways: Ways, schedules: int, seed: int = 1) -> str:
    """Run so many drawn schedules; what was lost in the first that lost something, or nothing."""
    for number in range(schedules):
        world = World(random.Random(f"{seed}/{number}"), ways)
        acts = [lambda w=world, n=n: w.register(n) for n in range(1, 4)]
        world.run(*acts, world.take_over)
        if lost := world.lost():
            return f"schedule {seed}/{number}: {sorted(lost)} were told GOOD and are not in what was restored"
    return ""


PLANTED = {
    "commit after the answer": Ways(answer="first"),
    "text committed instead of the table": Ways(recorded="text"),
    "an error answered while the portal is up": Ways(failed="error"),
    "restore without the swap": Ways(restored="read"),
}
RIGHT = replace(Ways())
