"""Reachability: silence counts from the send of the newest answered read, and only while the process ran."""

from __future__ import annotations

import threading
from collections.abc import Callable

from agent.reachability import Prober, Reachability
from gateway.errors import Blocklisted, NotFound, StorageUnavailable
from gateway.timers import Timers

TIMERS = Timers()


def watched(now: float = 100.0) -> Reachability:
    """A node whose agent has just started."""
    return Reachability(TIMERS, now)


def run(reachability: Reachability, since: float, until: float) -> None:
    """Let the prober tick all that time, with nothing answered."""
    now = since
    while now <= until:
        reachability.tick(now)
        now += TIMERS.storage_probe


def test_an_agent_that_has_just_started_knows_nothing() -> None:
    """No answer yet is no doubt; only after the time of a doubt it is."""
    reachability = watched()
    run(reachability, 100.0, 106.0)
    assert not reachability.doubted(107.9)
    assert reachability.doubted(108.0)


def test_silence_counts_from_the_send() -> None:
    """A late answer says only that Ceph answered what was sent then."""
    reachability = watched()
    run(reachability, 100.0, 106.0)
    reachability.answer(2.0, 106.5)
    assert reachability.silence(107.0) == 5.0


def test_an_older_answer_that_comes_later_changes_nothing() -> None:
    """Reads are answered in any order: the newest one that was sent counts."""
    reachability = watched()
    run(reachability, 100.0, 106.0)
    reachability.answer(6.0, 106.5)
    reachability.answer(2.0, 106.6)
    assert reachability.answered == 6.0


def test_a_paused_machine_was_not_unanswered() -> None:
    """A minute in which this process did not run is no minute of Ceph's silence."""
    reachability = watched()
    reachability.tick(100.0)
    reachability.answer(0.0, 100.1)
    assert reachability.silence(160.0) <= 2 * TIMERS.storage_probe
    reachability.tick(160.0)
    assert not reachability.doubted(160.0)
    assert reachability.silence(161.0) <= 2 * TIMERS.storage_probe + 1


def test_a_doubt_ends_with_steady_answers() -> None:
    """The first answer after a doubt ends the silence at once, and the doubt two periods later."""
    reachability = watched()
    run(reachability, 100.0, 120.0)
    assert reachability.doubted(120.5)
    reachability.answer(reachability.running(120.5), 120.6)
    assert reachability.silence(120.7) < 1
    assert reachability.doubted(122.0)
    reachability.tick(122.0)
    reachability.answer(reachability.running(122.0), 122.1)
    assert not reachability.doubted(122.1 + 2 * TIMERS.storage_probe)


def test_who_waits_for_an_answer_hears_of_the_first_sent_after() -> None:
    """An answer to a read that was sent before says nothing about the time since."""
    reachability = watched()
    run(reachability, 100.0, 104.0)
    reachability.expect_after(3.0)
    assert not reachability.answer(3.0, 104.0)
    assert reachability.answer(3.5, 104.0)
    assert not reachability.answer(4.0, 104.0)


class FakeConnection:
    """Answers as told; `read` may block."""

    def __init__(self, read: Callable[[], None] = lambda: None) -> None:
        self._read = read
        self.asked = 0

    def read_anchor(self, pool: str) -> None:
        """One read."""
        self.asked += 1
        self._read()


class Probing:
    """A prober on a clock that the test moves."""

    def __init__(self, connection: FakeConnection | None) -> None:
        self.now, self.storage, self.changes = 100.0, connection, 0
        self.fenced: list[tuple[object, str]] = []
        self.reachability = watched(self.now)
        self.prober = Prober(
            self.reachability,
            self,  # type: ignore[arg-type] # of the link only the connection is asked for
            timers=TIMERS,
            on_change=self.changed,
            on_blocklisted=lambda storage, reason: self.fenced.append((storage, reason)),
            clock=lambda: self.now,
        )
        self.reachability.pool = "rbd"

    def changed(self) -> None:
        """Count."""
        self.changes += 1

    def probe(self) -> None:
        """One probe, and its read is done."""
        self.prober.probe()
        for thread in tuple(self.prober._under_way):
            thread.join(10)


def fail(error: Exception) -> Callable[[], None]:
    """A read that ends so."""

    def read() -> None:
        raise error

    return read


def test_an_answer_is_an_answer_though_there_is_no_anchor() -> None:
    """That the object is not there was said by an OSD."""
    probing = Probing(FakeConnection(fail(NotFound("no anchor"))))
    probing.now += 2
    probing.probe()
    assert probing.reachability.answered > 0


def test_an_error_and_a_missing_connection_are_no_answers() -> None:
    """Silence goes on while reads fail or nothing can be sent, and the cycle is woken when it becomes a doubt."""
    for connection in (FakeConnection(fail(StorageUnavailable("no answer"))), None):
        probing = Probing(connection)
        for _ in range(5):
            probing.probe()
            probing.now += TIMERS.storage_probe
        assert probing.reachability.answered == 0
        assert probing.changes == 1


def test_reads_that_hang_hang_nothing() -> None:
    """Each tick sends another read until a bound, and a new connection is not burdened with the old one's."""
    hang = threading.Event()
    probing = Probing(FakeConnection(lambda: assert_set(hang)))
    for _ in range(20):
        probing.prober.probe()
        probing.now += TIMERS.storage_probe
    old = probing.storage
    assert old is not None
    assert old.asked <= 2 + TIMERS.rados_operation / TIMERS.storage_probe
    hanging = tuple(probing.prober._under_way)
    probing.storage = FakeConnection()
    probing.probe()
    assert probing.reachability.silence(probing.now) == 0
    hang.set()
    for thread in hanging:
        thread.join(10)


def assert_set(event: threading.Event) -> None:
    """Wait until the event is set."""
    assert event.wait(10)


def test_a_fenced_connection_is_told_and_counts_as_no_answer() -> None:
    """The refusal names the connection it came from: a later membership has another."""
    connection = FakeConnection(fail(Blocklisted("fenced")))
    probing = Probing(connection)
    probing.now += 2
    probing.probe()
    assert probing.fenced == [(connection, "fenced")]
    assert probing.reachability.answered == 0
