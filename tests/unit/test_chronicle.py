"""The chronicle: it keeps the order, never blocks, is bounded, and says what it could not write."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from agent.chronicle import ALIKE, ALIKE_WITHIN, PATIENCE, QUEUE, Chronicle
from gateway.errors import StoreUnavailable
from gateway.events import Event, Kind
from gateway.model import Label
from gateway.store.events import BATCH


@dataclass
class Paper:
    """What was written; `error` is raised instead while it is set."""

    events: list[Event] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    error: Exception | None = None

    def record(self, events: Sequence[Event]) -> None:
        """Keep the events."""
        self.calls.append(len(events))
        if self.error is not None:
            raise self.error
        self.events.extend(events)

    @property
    def texts(self) -> list[str]:
        """What the events say."""
        return [event.text for event in self.events]


@dataclass
class Pen:
    """A chronicle whose clock the test moves; `drain` writes all there is."""

    paper: Paper = field(default_factory=Paper)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.chronicle = Chronicle(self.paper, Label("gw1"), clock=lambda: self.now, wall=lambda: f"at {self.now:g}")

    def tell(self, *texts: str) -> None:
        """Tell of a node."""
        for text in texts:
            self.chronicle.tell(Event(Kind.NODE, text))

    def drain(self) -> None:
        """Write until nothing is left."""
        for _ in range(100):
            assert self.chronicle.write()


@pytest.fixture
def pen() -> Pen:
    """A fresh one."""
    return Pen()


def letters(count: int) -> list[str]:
    """So many texts that differ by more than their numbers."""
    return ["".join(chr(97 + int(digit)) for digit in f"{number:04}") for number in range(count)]


def test_an_event_gets_its_author_and_its_time(pen: Pen) -> None:
    """The time is that of the telling, not of the writing, and the author is the node."""
    pen.tell("joined")
    pen.now = 5.0
    pen.drain()
    assert pen.paper.events == [Event(Kind.NODE, "joined", who="gw1", time="at 0")]


def test_events_are_written_in_their_order_and_in_batches(pen: Pen) -> None:
    """A burst takes few transactions, none of them larger than etcd takes, and stays in order."""
    told = letters(200)
    pen.tell(*told)
    pen.drain()
    assert pen.paper.texts == told
    assert max(pen.paper.calls) < BATCH
    assert len(pen.paper.calls) < 5


def test_events_wait_for_etcd(pen: Pen) -> None:
    """What etcd did not take is written when it answers again, once."""
    pen.paper.error = StoreUnavailable("no member answered")
    pen.tell("one", "two")
    assert not pen.chronicle.write()
    pen.now = PATIENCE - 1
    assert not pen.chronicle.write()
    pen.paper.error = None
    pen.drain()
    assert pen.paper.texts == ["one", "two"]


def test_events_do_not_wait_for_ever(pen: Pen) -> None:
    """After its patience an event is dropped; the next one that is written comes with the number of those."""
    pen.paper.error = StoreUnavailable("no member answered")
    pen.tell("one", "two")
    pen.now = PATIENCE + 1
    pen.tell("three")
    assert not pen.chronicle.write()
    pen.paper.error = None
    pen.drain()
    assert pen.paper.texts == ["2 earlier events of this node could not be written and are lost", "three"]
    pen.tell("four")
    pen.drain()
    assert pen.paper.texts[2:] == ["four"]


def test_the_queue_is_bounded(pen: Pen) -> None:
    """With a full queue the oldest event goes, and the loss is told, within what a transaction takes."""
    told = letters(QUEUE + 3)
    pen.tell(*told)
    pen.drain()
    assert pen.paper.texts == ["3 earlier events of this node could not be written and are lost", *told[3:]]
    assert max(pen.paper.calls) <= BATCH


def test_what_is_told_while_it_writes_is_kept(pen: Pen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that come, and push old ones out, during a write are neither lost nor written twice."""
    record, told = pen.paper.record, letters(QUEUE + 10)

    def slow(events: Sequence[Event]) -> None:
        monkeypatch.setattr(pen.paper, "record", record)
        pen.tell(*told[QUEUE:])
        record(events)

    pen.tell(*told[:QUEUE])
    monkeypatch.setattr(pen.paper, "record", slow)
    pen.drain()
    written = [text for text in pen.paper.texts if "earlier events" not in text]
    assert written == told


def test_a_bug_in_writing_ends_nothing(pen: Pen) -> None:
    """An error nobody thought of costs the events at hand, is told, and the next ones are written."""
    pen.paper.error = ValueError("bug")
    pen.tell("one")
    assert pen.chronicle.write()
    pen.paper.error = None
    pen.tell("two")
    pen.drain()
    assert pen.paper.texts == ["1 earlier event of this node could not be written and are lost", "two"]


def test_the_same_again_and_again_is_counted(pen: Pen) -> None:
    """A thing that comes and goes all the time is told a few times, and once it was quiet with the number untold."""
    for number in range(ALIKE + 4):
        pen.now += 1
        pen.tell(f"path {number % 2} is down")
    pen.tell("something else")
    pen.drain()
    assert len(pen.paper.texts) == ALIKE + 1
    pen.now += ALIKE_WITHIN
    pen.tell("path 1 is down", "path 1 is down")
    pen.drain()
    assert pen.paper.texts[-2:] == ["path 1 is down (and 4 times before this, untold)", "path 1 is down"]


def test_what_is_past_costs_no_memory(pen: Pen) -> None:
    """Whatever was told once is not remembered for ever, though it never comes again."""
    for text in letters(1000):
        pen.now += ALIKE_WITHIN / 100
        pen.tell(text)
    assert len(pen.chronicle._alike) < 150


def test_the_thread_writes_and_flush_waits_for_it(pen: Pen) -> None:
    """Started, it writes by itself; `flush` returns when all is written, or at its bound."""
    pen.chronicle.start()
    pen.tell("one")
    pen.chronicle.flush(10.0)
    assert pen.paper.texts == ["one"]
    gate = threading.Event()
    pen.paper.record = lambda events: gate.wait(10)  # type: ignore[method-assign, assignment]
    pen.tell("two")
    pen.chronicle.flush(0.01)
    gate.set()
    pen.chronicle.flush(10.0)


def test_telling_takes_no_time_while_etcd_hangs(pen: Pen) -> None:
    """A write that hangs holds no lock that telling needs."""
    entered, gate = threading.Event(), threading.Event()

    def hang(events: Sequence[Event]) -> None:
        entered.set()
        gate.wait(10)

    pen.paper.record = hang  # type: ignore[method-assign]
    pen.chronicle.start()
    pen.tell("one")
    assert entered.wait(10)
    teller = threading.Thread(target=pen.tell, args=("two",))
    teller.start()
    teller.join(5)
    assert not teller.is_alive()
    gate.set()
