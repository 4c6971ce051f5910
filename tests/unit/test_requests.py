"""The ledger of requests given up: held against whoever was mapped, kept for a successor, and unknown is given up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent.requests import RequestLedger
from gateway.images.kernel_log import Excerpt, KernelLog
from gateway.model import Instance
from gateway.runtime import RuntimeDirectory

OURS, LATER = Instance("10.0.0.1:0/1"), Instance("10.0.0.1:0/2")
TIMEOUT = b"libceph: tid 4711 on osd0 timeout"


class FakeLog:
    """A log that the test writes; `oldest` is the first record that was not overwritten."""

    def __init__(self) -> None:
        self.given_up: list[bool] = []
        self.oldest = 0
        self.readable = True

    def say(self, given_up: bool = False) -> None:
        """One more record."""
        self.given_up.append(given_up)

    def look(self, after: int) -> Excerpt:
        """What comes after."""
        if not self.readable:
            raise PermissionError("not for you")
        begin = max(after + 1, self.oldest)
        return Excerpt(len(self.given_up) - 1, any(self.given_up[begin:]), begin > after + 1)


def turn(ledger: RequestLedger, *mapped: Instance) -> None:
    """One turn of the agent."""
    ledger.read()
    ledger.note(set(mapped))


def test_a_client_whose_requests_were_answered_is_complete(tmp_path: Path) -> None:
    """What the log says of anything else is held against nobody."""
    log = FakeLog()
    ledger = RequestLedger(log, RuntimeDirectory(tmp_path), "boot")
    turn(ledger)
    log.say()
    turn(ledger, OURS)
    log.say()
    assert ledger.complete(OURS)


def test_a_request_given_up_counts_from_the_moment_it_is_logged(tmp_path: Path) -> None:
    """The unmap that made the kernel give it up and the release after it are one turn."""
    log = FakeLog()
    ledger = RequestLedger(log, RuntimeDirectory(tmp_path), "boot")
    turn(ledger, OURS)
    log.say(given_up=True)
    assert not ledger.complete(OURS)
    turn(ledger, OURS)
    assert not ledger.complete(OURS)


def test_a_later_client_is_not_blamed(tmp_path: Path) -> None:
    """The client of the next membership is mapped after the last line about the former."""
    log = FakeLog()
    ledger = RequestLedger(log, RuntimeDirectory(tmp_path), "boot")
    turn(ledger, OURS)
    log.say(given_up=True)
    turn(ledger, OURS)
    turn(ledger)
    turn(ledger, LATER)
    assert ledger.complete(LATER)
    assert not ledger.complete(OURS)


def test_what_is_logged_between_two_looks_may_be_the_new_ones(tmp_path: Path) -> None:
    """A client that appears together with such a line is blamed: too much costs a fence, too little data."""
    log = FakeLog()
    ledger = RequestLedger(log, RuntimeDirectory(tmp_path), "boot")
    turn(ledger)
    log.say(given_up=True)
    turn(ledger, OURS)
    assert not ledger.complete(OURS)


def test_a_successor_knows_what_its_predecessor_read(tmp_path: Path) -> None:
    """What was held against a client, and what was not, outlives the agent and the ring's oldest records."""
    log, runtime = FakeLog(), RuntimeDirectory(tmp_path)
    first = RequestLedger(log, runtime, "boot")
    turn(first, OURS)
    log.say(given_up=True)
    turn(first, OURS)
    turn(first, OURS, LATER)
    log.oldest = 1
    second = RequestLedger(log, runtime, "boot")
    turn(second, OURS, LATER)
    assert not second.complete(OURS)
    assert second.complete(LATER)


def test_what_was_logged_while_no_agent_ran_counts(tmp_path: Path) -> None:
    """A successor reads on where the last one stopped."""
    log, runtime = FakeLog(), RuntimeDirectory(tmp_path)
    turn(RequestLedger(log, runtime, "boot"), OURS)
    log.say(given_up=True)
    second = RequestLedger(log, runtime, "boot")
    turn(second, OURS)
    assert not second.complete(OURS)


def test_what_cannot_be_known_counts_as_given_up(tmp_path: Path) -> None:
    """No word of a predecessor and an overwritten log, records lost, a log that cannot be read, an unknown client."""
    log = FakeLog()
    log.given_up, log.oldest = [False] * 10, 5
    ledger = RequestLedger(log, RuntimeDirectory(tmp_path / "1"), "boot")
    turn(ledger, OURS)
    assert not ledger.complete(OURS)
    ledger = RequestLedger(FakeLog(), RuntimeDirectory(tmp_path / "2"), "boot")
    turn(ledger, OURS)
    assert ledger.complete(OURS)
    assert not ledger.complete(LATER)
    log = FakeLog()
    ledger = RequestLedger(log, RuntimeDirectory(tmp_path / "3"), "boot")
    turn(ledger, OURS)
    log.readable = False
    assert not ledger.complete(OURS)


def test_a_client_made_anew_is_shown_as_well(tmp_path: Path) -> None:
    """What is shown is about the clients there are: of one that is gone nothing is, here and after a restart."""
    log, runtime = FakeLog(), RuntimeDirectory(tmp_path)
    ledger = RequestLedger(log, runtime, "boot")
    assert ledger.given_up is None
    turn(ledger, OURS)
    assert ledger.given_up is False
    log.say(given_up=True)
    turn(ledger, OURS)
    assert ledger.given_up is True
    for mapped in ([], [LATER]):
        turn(ledger, *mapped)
        assert ledger.given_up is False
    assert not ledger.complete(OURS)
    successor = RequestLedger(log, runtime, "boot")
    assert successor.given_up is None
    turn(successor, LATER)
    assert successor.given_up is False
    assert not successor.complete(OURS)


def test_what_cannot_be_known_is_not_shown(tmp_path: Path) -> None:
    """After lost records nothing is shown of the client, here and after a restart, until it is seen to give one up."""
    log, runtime = FakeLog(), RuntimeDirectory(tmp_path)
    ledger = RequestLedger(log, runtime, "boot")
    turn(ledger, OURS)
    log.given_up, log.oldest = [False] * 10, 5
    turn(ledger, OURS)
    successor = RequestLedger(log, runtime, "boot")
    turn(successor, OURS, LATER)
    for each in (ledger, successor):
        assert each.given_up is None
        assert not each.complete(OURS)
    assert successor.complete(LATER)
    log.say(given_up=True)
    turn(successor, OURS)
    assert successor.given_up is True


def test_a_log_that_cannot_be_read_is_not_shown_as_given_up(tmp_path: Path) -> None:
    """Nor does it hide what was read before."""
    log = FakeLog()
    ledger = RequestLedger(log, RuntimeDirectory(tmp_path), "boot")
    turn(ledger, OURS)
    log.readable = False
    turn(ledger, OURS)
    assert ledger.given_up is None
    assert not ledger.complete(OURS)
    log.readable = True
    log.say(given_up=True)
    turn(ledger, OURS)
    log.readable = False
    turn(ledger, OURS)
    assert ledger.given_up is True


def test_an_older_agent_takes_the_unknown_for_given_up(tmp_path: Path) -> None:
    """Agents that did not tell the two apart read whatever is not empty as yes."""
    log, runtime = FakeLog(), RuntimeDirectory(tmp_path)
    log.given_up, log.oldest = [False] * 10, 5
    turn(RequestLedger(log, runtime, "boot"), OURS)
    assert all(map(bool, json.loads((tmp_path / "requests").read_text())["clients"].values()))


def test_another_boot_has_another_log(tmp_path: Path) -> None:
    """What was kept before the machine started anew says nothing."""
    log, runtime = FakeLog(), RuntimeDirectory(tmp_path)
    log.say(given_up=True)
    turn(RequestLedger(log, runtime, "boot"), OURS)
    ledger = RequestLedger(FakeLog(), runtime, "another boot")
    turn(ledger, OURS)
    assert ledger.complete(OURS)


class Ring:
    """A stand-in for the log's device: each read is one record, as told; an error is raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *reads: bytes | OSError) -> None:
        self.reads = list(reads)
        monkeypatch.setattr(os, "open", lambda *_: 99)
        monkeypatch.setattr(os, "read", self.read)

    def read(self, descriptor: int, size: int) -> bytes:
        """The next record."""
        if not self.reads:
            raise BlockingIOError
        found = self.reads.pop(0)
        if isinstance(found, OSError):
            raise found
        return found


@pytest.mark.parametrize(
    ("line", "given_up"),
    [
        (TIMEOUT, True),
        (b"libceph: tid 1 on osd-1 timeout", True),
        (b"libceph: tid 1 on osd0 timeout (fsid 0 client1)", True),
        (b"libceph: osd0 (1)10.77.0.21:6800 socket closed (con state OPEN)", False),
        (b"something: tid 1 on osd0 timeout", False),
        (b"rbd: rbd0: write at objno 0 0~4096 result -110", False),
    ],
)
def test_the_kernels_words(monkeypatch: pytest.MonkeyPatch, line: bytes, given_up: bool) -> None:
    """Only libceph's own word of a request that timed out is one, with and without what newer kernels add."""
    ring = Ring(monkeypatch, b"6,0,12,-;booted\n SUBSYSTEM=x\n", b"3,1,5678,-;" + line + b"\n")
    log = KernelLog()
    assert log.look(-1) == Excerpt(1, given_up)
    ring.reads = [b"6,2,9000,-;more\n"]
    assert log.look(1) == Excerpt(2)


def test_overwritten_records_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap in the numbers means that something was lost, before the first read or in between."""
    ring = Ring(monkeypatch, b"6,7,12,-;late\n")
    log = KernelLog()
    assert log.look(-1) == Excerpt(7, lost=True)
    ring.reads = [OSError(32, "overwritten"), b"6,12,12,-;later\n"]
    assert log.look(7) == Excerpt(12, lost=True)


def test_what_was_read_before_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A successor meets the old records again, and begins after the one its predecessor ended at."""
    Ring(monkeypatch, b"3,4,12,-;" + TIMEOUT, b"6,5,12,-;new")
    assert KernelLog().look(4) == Excerpt(5)
