"""The trap: a change of reservations is answered when it is recorded, or when nobody can hear the answer."""

from __future__ import annotations

import errno
import ipaddress
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agent.trap import NotCondemned, Trap, reconcile
from gateway.errors import Inconsistent, KernelRefused, LostRace, StorageUnavailable, Stuck
from gateway.lio.exports import Export
from gateway.model import Address, Iqn
from gateway.observed import DeviceName

HOLD = 0.4
BOUND = 10.0
ONE = Export(DeviceName("00000000000000a1", 7), "/dev/rbd0", Iqn("iqn.2026-11.io.rbdgate:one"))
TWO = Export(DeviceName("00000000000000a2", 9), "/dev/rbd1", Iqn("iqn.2026-11.io.rbdgate:two"))
ADDRESSES = {ONE: ipaddress.ip_address("10.0.1.1"), TWO: ipaddress.ip_address("10.0.1.2")}


@dataclass
class Node:
    """A node's exports: what was done is told in order; `find_fails` and `silence_fails` count refusals to come."""

    log: list[str] = field(default_factory=list)
    up: set[Address] = field(default_factory=lambda: set(ADDRESSES.values()))
    find_fails: int = 0
    silence_fails: int = 0
    mark_fails: int = 0
    marks: dict[str, str] = field(default_factory=dict)

    def find(self, serial: str) -> Export | None:
        """The export by its number as a word."""
        if self.find_fails:
            self.find_fails -= 1
            raise KernelRefused("busy")
        return {"one": ONE, "two": TWO}.get(serial)

    def portals(self, export: Export) -> frozenset[Address]:
        """Its one portal."""
        return frozenset({ADDRESSES[export]})

    def silence(self, addresses: frozenset[Address]) -> None:
        """Take them off, unless that is to fail."""
        if self.silence_fails:
            self.silence_fails -= 1
            raise Stuck("an address is still there")
        self.up -= addresses
        self.log.append("silent")

    def condemn(self, uid: str, reason: str) -> None:
        """Mark, unless that is to fail."""
        if self.mark_fails:
            self.mark_fails -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self.marks[uid] = reason
        self.log.append("marked")


@dataclass
class Recorder:
    """Records at once, or does what `act` does first; `known` are the texts it was told it had recorded last."""

    node: Node
    act: Callable[[], None] = lambda: None
    known: list[bytes | None] = field(default_factory=list)

    def __call__(self, export: Export, text: bytes, known: bytes | None) -> bytes:
        """One record."""
        self.known.append(known)
        self.act()
        self.node.log.append(f"recorded {export.device.uid[-1]}")
        return text


def trap_on(node: Node, act: Callable[[], None] = lambda: None) -> tuple[Trap, Recorder]:
    """A trap with a short hold."""
    recorder = Recorder(node, act)
    return Trap(node, recorder, hold=HOLD), recorder


def answered(trap: Trap, name: str) -> threading.Event:
    """Write a text in a thread of its own; set when the write is answered."""
    event = threading.Event()

    def write() -> None:
        trap.on_text(name, b"text\0")
        event.set()

    threading.Thread(target=write, daemon=True).start()
    return event


def held(trap: Trap) -> int:
    """How many writes wait, as the guard's figures tell."""
    return int(json.loads(trap.figures.text(0.0, cut=False, mounted=True, requests=0))["held"])


def test_a_change_is_answered_when_it_is_recorded() -> None:
    """Not before: while the recorder works, the write waits; afterwards the portal is up as it was."""
    node, go = Node(), threading.Event()
    trap, recorder = trap_on(node, lambda: _wait(go, HOLD))
    event = answered(trap, "aptpl_one")
    assert not event.wait(HOLD / 4)
    assert held(trap) == 1
    go.set()
    assert event.wait(BOUND)
    assert (node.log, node.marks, held(trap)) == (["recorded 1"], {}, 0)
    trap.on_text("aptpl_one", b"more\0")
    assert recorder.known == [None, b"text\0"]


def _wait(event: threading.Event, bound: float) -> None:
    event.wait(bound)


@pytest.mark.parametrize("error", [LostRace("another holder"), Inconsistent("somebody else changed pr_info")])
def test_what_cannot_be_recorded_is_heard_by_nobody(error: Exception) -> None:
    """A lost race is not tried again: marked first, then off the air, and only then answered."""
    node, tries = Node(), []

    def fail() -> None:
        tries.append(1)
        raise error

    trap, _ = trap_on(node, fail)
    trap.on_text("aptpl_one", b"text\0")
    assert (len(tries), node.log) == (1, ["marked", "silent"])
    assert ADDRESSES[ONE] not in node.up
    assert str(error) in node.marks[ONE.device.uid]
    assert ADDRESSES[TWO] in node.up


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "full"), KeyError("x")], ids=repr)
def test_a_bug_is_no_record(error: Exception) -> None:
    """Whatever ends the recorder, what it did not say it has recorded is answered to nobody."""
    node = Node()

    def fail() -> None:
        raise error

    trap, _ = trap_on(node, fail)
    trap.on_text("aptpl_one", b"text\0")
    assert node.log == ["marked", "silent"]
    assert f"{type(error).__name__}, a bug" in node.marks[ONE.device.uid]


@pytest.mark.parametrize("fails", [2, 1_000_000])
def test_a_mark_that_cannot_be_left_ends_the_guard(fails: int) -> None:
    """One refusal is borne; where marks cannot be left at all, nothing is answered and the guard's end cuts all."""
    node = Node(mark_fails=fails)
    trap, _ = trap_on(node, lambda: (_ for _ in ()).throw(LostRace("gone")))
    if fails == 2:
        trap.on_text("aptpl_one", b"text\0")
        assert node.log == ["marked", "silent"]
    else:
        with pytest.raises(NotCondemned, match="No space left"):
            trap.on_text("aptpl_one", b"text\0")


def test_what_nobody_caught_is_recorded_once_it_is_cut() -> None:
    """First silent, so the table has all that was acknowledged; then recorded, then condemned. Of an export that was
    never seen whole nothing is recorded, and one that cannot be recorded is condemned all the same."""
    node, hang = Node(), threading.Event()
    trap, recorder = trap_on(node, lambda: _wait(hang, BOUND) if trouble else None)
    trouble = False
    trap.on_text("aptpl_one", b"text\0")
    node.log.clear()
    trap.salvage((ONE, TWO), "unmounted")
    assert node.log == ["silent", "silent", "recorded 1", "marked", "silent", "marked", "silent"]
    assert recorder.known == [None, b"text\0"]
    trap.on_text("aptpl_two", b"text\0")
    node.log.clear()
    trouble = True
    trap.salvage((TWO,), "unmounted")
    hang.set()
    assert node.log[:3] == ["silent", "marked", "silent"]


def test_a_recorder_that_hangs_is_waited_for_so_long_and_no_longer() -> None:
    """At the bound the image is off the air; what the recorder does later answers nobody."""
    node, go = Node(), threading.Event()
    trap, _ = trap_on(node, lambda: _wait(go, BOUND))
    event = answered(trap, "aptpl_one")
    assert event.wait(BOUND)
    assert node.log == ["marked", "silent"]
    go.set()


def test_one_hanging_image_delays_no_other() -> None:
    """While one image's recorder hangs, another's change is recorded and answered."""
    node, go = Node(), threading.Event()

    def record(export: Export, text: bytes, known: bytes | None) -> bytes:
        if export == ONE:
            go.wait(BOUND)
        return text

    trap = Trap(node, record, hold=BOUND)
    first = answered(trap, "aptpl_one")
    assert answered(trap, "aptpl_two").wait(HOLD)
    assert not first.is_set()
    go.set()
    assert first.wait(BOUND)
    assert node.marks == {}


def test_ceph_may_be_silent_for_a_moment() -> None:
    """What may pass is tried again within the hold, and then the portal never went."""
    node, failures = Node(), iter((StorageUnavailable("silent"), KernelRefused("busy"), Stuck("slow")))

    def fail_thrice() -> None:
        for failure in failures:
            raise failure

    trap = Trap(node, Recorder(node, fail_thrice), hold=BOUND)
    trap.on_text("aptpl_one", b"text\0")
    assert (node.log, node.marks) == (["recorded 1"], {})


def test_no_answer_while_an_address_is_still_there() -> None:
    """A kernel that keeps an address is asked again and again, and the write waits for as long."""
    node = Node(silence_fails=5)
    trap, _ = trap_on(node, lambda: (_ for _ in ()).throw(LostRace("gone")))
    trap.on_text("aptpl_one", b"text\0")
    assert ADDRESSES[ONE] not in node.up
    assert node.silence_fails == 0


def test_a_condemned_export_is_not_remembered() -> None:
    """After an image was condemned its next change is not held against what was recorded before."""
    node, fail = Node(), [False]

    def act() -> None:
        if fail[0]:
            raise LostRace("gone")

    trap, recorder = trap_on(node, act)
    trap.on_text("aptpl_one", b"a\0")
    fail[0] = True
    trap.on_text("aptpl_one", b"b\0")
    fail[0] = False
    trap.on_text("aptpl_one", b"c\0")
    assert recorder.known == [None, b"a\0", None]


def test_other_files_and_other_serials_are_answered() -> None:
    """What is no table of ours is nobody's promise; a kernel that cannot tell yet is asked again."""
    node = Node(find_fails=2)
    trap, _ = trap_on(node)
    trap.on_text("notes", b"hello\0")
    trap.on_text("aptpl_three", b"text\0")
    assert (node.log, node.find_fails) == ([], 0)


def test_an_unknown_image_is_no_absent_one() -> None:
    """If the kernel does not tell whose change it is, nothing is answered: the error ends the guard."""
    node = Node(find_fails=1000)
    trap, _ = trap_on(node)
    with pytest.raises(KernelRefused):
        trap.on_text("aptpl_one", b"text\0")


def test_a_new_guard_condemns_what_is_not_as_recorded() -> None:
    """An export that differs, or that cannot be compared in time, is taken off the air; one that agrees stays."""
    node, never = Node(), threading.Event()
    three = Export(DeviceName("00000000000000a3", 1), "/dev/rbd3", Iqn("iqn.2026-11.io.rbdgate:three"))
    four = Export(DeviceName("00000000000000a4", 1), "/dev/rbd4", Iqn("iqn.2026-11.io.rbdgate:four"))
    ADDRESSES[three], ADDRESSES[four] = ipaddress.ip_address("10.0.1.3"), ipaddress.ip_address("10.0.1.4")
    trap, recorder = trap_on(node)
    tries = []

    def compare(export: Export) -> bytes:
        if export == TWO:
            raise Inconsistent("1 registrations are missing")
        if export == four:
            raise OSError(errno.EIO, "what nobody thought of")
        if export == three:
            never.wait(BOUND)
        tries.append(1)
        if len(tries) == 1:
            raise StorageUnavailable("connecting")
        return b"recorded\0"

    reconcile(trap, (ONE, TWO, three, four), compare, 0.5)
    never.set()
    assert set(node.marks) == {TWO.device.uid, three.device.uid, four.device.uid}
    assert "within 0.5 s" in node.marks[three.device.uid]
    trap.on_text("aptpl_one", b"text\0")
    assert recorder.known == [b"recorded\0"]
