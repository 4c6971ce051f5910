"""What the agent tells the guard: read as it was written, recorded as it was meant, and in the right order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.trap import Trap
from gateway import kernel as kernel_room
from gateway.access import Access
from gateway.errors import Conflict, Inconsistent, RbdgateError, Unavailable
from gateway.images.krbd import Krbd
from gateway.kernel import NodeKernel
from gateway.lio.exports import Export
from gateway.model import Address, DeviceAttributes, ImageSpec, Instance, Iqn, Label
from gateway.observed import GENERATION_BASE, DeviceName, Mapping
from gateway.reservations import recording
from gateway.reservations.amending import full_name
from gateway.reservations.pr_info import decode, encode
from gateway.reservations.recording import Ports, content, successor, without
from gateway.reservations.restoring import restoring
from gateway.reservations.state import Nexus, Registration, Reservation, ReservationState, ReservationType
from gateway.reservations.telling import RESTORED, forgetting, forgotten_in, leaving, leaving_in, tell
from gateway.runtime import RuntimeDirectory
from gateway.steps import SetInitiators
from gateway.timers import Timers
from tests.reservations import INITIATORS, states
from tests.unit.test_plan import spec_of

SPEC = spec_of(1)
DEVICE = DeviceName(SPEC.uid, 7)
EXPORT = Export(DEVICE, "/dev/rbd0", SPEC.identity.iqn)
quick = settings(max_examples=60)
A, B = Iqn("iqn.1993-08.org.debian:01:a"), Iqn("iqn.1993-08.org.debian:01:b")
STRANGER = Nexus(Iqn("iqn.1993-08.org.debian:01:c"), "00023d000003", SPEC.identity.iqn, 1)


@quick
@given(st.sets(INITIATORS, min_size=1))
def test_who_leaves_is_read_as_it_was_written(initiators: set[Iqn]) -> None:
    """The text ends as the kernel's do, and gives the same names back."""
    text = leaving(initiators)
    assert text.endswith(b"\n\0")
    assert leaving_in(text) == initiators


@pytest.mark.parametrize("text", [b"", b"\0", RESTORED, b"No Registrations or Reservations\n\0", b"without x\0"])
def test_other_texts_name_nobody(text: bytes) -> None:
    """Whatever the kernel writes, or somebody else, has nobody left out."""
    assert leaving_in(text) == frozenset()


@quick
@given(states(), st.data())
def test_who_leaves_is_recorded_no_more(state: ReservationState, data: st.DataObject) -> None:
    """The others stay, what a leaving one held is released, and the generation tells that something changed."""
    gone = data.draw(st.sets(INITIATORS))
    left = without(state, gone)
    assert [each for each in state.registrations if each.nexus.initiator not in gone] == list(left.registrations)
    assert (left.registrations == state.registrations) == (left.generation == state.generation)
    assert left.sequence == state.sequence


def test_who_leaves_is_not_kept_as_stale() -> None:
    """Neither while the ACL is there nor after it went, and not if another change was recorded in between."""
    one, other = (Nexus(iqn, "00023d000001", SPEC.identity.iqn, 1) for iqn in (A, B))
    both = tuple(Registration(nexus, 1, since=5) for nexus in (one, other))
    held = Reservation(ReservationType.WRITE_EXCLUSIVE, one, 1, since=5)
    before = ReservationState(5, 3, both, held)
    gone = frozenset({A})
    first = successor(without(before, gone), without(before, gone), lambda _: True, 9)
    assert content(first) == content(ReservationState(registrations=both[1:]))
    assert (first.sequence, first.generation) == (6, 4)
    again = replace(before, sequence=7, generation=5)  # what a change of the other one's recorded meanwhile
    kernel = ReservationState(registrations=both[1:])
    last = successor(without(again, gone), kernel, lambda nexus: nexus.initiator != A, 9)
    assert content(last) == content(first)


def test_the_guard_records_what_the_agent_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's table still has who leaves, and so has what was recorded: neither is written."""
    both = tuple(Registration(Nexus(iqn, "00023d000001", SPEC.identity.iqn, 1), 1, since=5) for iqn in (A, B))
    table = ReservationState(registrations=both)
    ports = Ports(SPEC.identity.iqn, {1: 1}, {1: frozenset({A, B})})
    monkeypatch.setattr(recording, "read_state", lambda *_, **__: table)
    monkeypatch.setattr(Ports, "of", lambda _iqn: ports)
    monkeypatch.setattr(recording, "commit_pr_info", lambda _header, _token, _node, decide: decide(encode(table)))
    header: Any = None

    def recorded(text: bytes) -> list[Iqn]:
        what = recording.record(EXPORT, header, Label("gw1"), text, known=None, now=9, timeout=1, expect_whole=_whole)
        return [each.nexus.initiator for each in decode(what).registrations]

    assert recorded(leaving({A})) == [B]
    assert recorded(forgetting([full_name(table.registrations[1].nexus)])) == [A]
    assert recorded(b"No Registrations or Reservations\n\0") == [A, B]


def test_who_registers_where_all_registrants_held_in_vain_is_recorded_and_heard_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel does not have in force what the newcomer holds by then: the export is condemned, and built with it."""
    old = Registration(STRANGER, 3, since=5)
    held = Reservation(ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, STRANGER, 0)
    table = ReservationState(registrations=(Registration(Nexus(A, "00023d000001", SPEC.identity.iqn, 1), 1),))
    written: list[ReservationState] = []

    def commit(_header: object, _token: int, _node: Label, decide: Callable[[bytes], bytes]) -> bytes:
        text = decide(encode(ReservationState(registrations=(old,), reservation=held)))
        written.append(decode(text))
        return text

    monkeypatch.setattr(recording, "read_state", lambda *_, **__: table)
    monkeypatch.setattr(Ports, "of", lambda iqn: Ports(iqn, {1: 1}, {1: frozenset({A})}))
    monkeypatch.setattr(recording, "commit_pr_info", commit)
    header: Any = None
    with pytest.raises(Inconsistent, match="to be built anew"):
        recording.record(EXPORT, header, Label("gw1"), b"\0", known=None, now=9, timeout=1, expect_whole=_whole)
    (after,) = written
    assert {each.nexus.initiator for each in after.registrations} == {A, STRANGER.initiator}
    assert after.reservation == held


def _whole() -> None:
    """The export is."""


class _Exports:
    """One export, always found."""

    def find(self, serial: str) -> Export | None:
        """It."""
        return EXPORT

    def portals(self, export: Export) -> frozenset[Address]:
        """None."""
        return frozenset()

    def silence(self, addresses: frozenset[Address]) -> None:
        """Nothing to do."""

    def condemn(self, uid: str, reason: str) -> None:
        """Not expected."""
        raise AssertionError(reason)


@pytest.mark.parametrize("names", [{full_name(STRANGER)}, {"a,i,any,b,t,0x1", "a,i,any,b,t,0x2"}])
def test_what_is_forgotten_is_read_as_it_was_written(names: set[str]) -> None:
    """The same of registrations by name; neither text is taken for the other."""
    text = forgetting(names)
    assert forgotten_in(text) == names
    assert not leaving_in(text)
    assert not forgotten_in(leaving({A}))


def test_what_was_restored_is_handed_over_once(tmp_path: Path) -> None:
    """And an older one is not left behind when there is no room for the new one."""
    runtime = RuntimeDirectory(tmp_path)
    assert runtime.take_restored(SPEC.uid) is None
    runtime.write_restored(SPEC.uid, b"first")
    runtime.write_restored(SPEC.uid, b"second\n")
    assert [runtime.take_restored(SPEC.uid) for _ in range(2)] == [b"second\n", None]


def test_what_hung_for_long_records_nothing_of_an_export_that_is_being_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table is not restored yet: before it is read and afterwards the export has to be whole."""
    registered = Registration(Nexus(A, "00023d000001", SPEC.identity.iqn, 1), 1, since=5)
    before, empty = ReservationState(registrations=(registered,)), ReservationState()
    monkeypatch.setattr(recording, "read_state", lambda *_, **__: empty)
    monkeypatch.setattr(Ports, "of", lambda _iqn: Ports(SPEC.identity.iqn, {1: 1}, {1: frozenset({A})}))
    monkeypatch.setattr(recording, "commit_pr_info", lambda _header, _token, _node, decide: decide(encode(before)))
    export, node, header = Export(DEVICE, "/dev/rbd0", SPEC.identity.iqn), Label("gw1"), cast("Any", None)
    for good_looks in (0, 1):
        looks = iter([None] * good_looks)

        def expect_whole(looks: Iterator[None] = looks) -> None:
            if next(looks, "none left") is not None:
                raise Inconsistent("it is to be exported anew")

        with pytest.raises(Inconsistent, match="exported anew"):
            recording.record(export, header, node, b"\0", known=None, now=9, timeout=1, expect_whole=expect_whole)


def test_the_first_change_after_a_takeover_is_held_against_what_was_restored() -> None:
    """Not against what this guard wrote before: whoever wrote since, the agent restored what is recorded."""
    seen: list[bytes | None] = []

    def recorder(_export: Export, text: bytes, known: bytes | None) -> bytes:
        seen.append(known)
        return text

    left = iter((b"whole", None))
    trap = Trap(_Exports(), recorder, hold=3.0, restored=lambda _export: next(left))
    for text in (b"one\0", b"two\0", RESTORED, b"three\0", RESTORED, b"four\0"):
        trap.on_text(f"aptpl_{SPEC.identity.serial}", text)
    assert seen == [None, b"one\0", b"whole", None]  # an agent of another version leaves no word of it


class _Node:
    """A `NodeKernel` whose LIO only remembers what it was asked for; `fail` maps an act to the error it ends in."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acts: list[str] = []
        self.fail: dict[str, RbdgateError] = {}
        self.runtime = RuntimeDirectory(path)
        self.kernel = NodeKernel(self.runtime, Timers())
        ours = {"osd_idle_ttl": str(GENERATION_BASE + 1)}
        client = Instance("10.0.1.1:0/1")
        mapping = Mapping(0, "rbd", "", "disk1", SPEC.image_id, client, ours, read_only=False, size=1)
        monkeypatch.setattr(Krbd, "mappings", lambda _self: (mapping,))
        lio = {name: self._act(name) for name in ("expect_nothing", "build", "set_acls", "observe_target")}
        lio |= {"dbroot": lambda: path, "observe_devices": lambda: ()}
        monkeypatch.setattr(kernel_room, "lio", SimpleNamespace(**lio))
        for name in ("expect_trap", "expect_restored"):
            monkeypatch.setattr(kernel_room, name, self._act(name))
        for name in ("differences", "access_differences"):
            monkeypatch.setattr(kernel_room, name, lambda *_: ())
        monkeypatch.setattr(kernel_room, "tell", lambda _root, _serial, text: self._act(repr(text))())

    def _act(self, name: str) -> Callable[..., Any]:
        def act(*_: object, **__: object) -> None:
            self.acts.append(name)
            if name in self.fail:
                raise self.fail[name]

        return act


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Node:
    """A fresh one."""
    return _Node(tmp_path, monkeypatch)


def test_an_export_that_was_not_found_right_stays_condemned(node: _Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks complete to the next turn, and must not be opened; one that was is told to the guard and free.

    Unless the guard itself condemned it meanwhile.
    """
    node.fail["expect_restored"] = Inconsistent("its reservations were not restored")
    with pytest.raises(Inconsistent):
        node.kernel.build(SPEC, DEVICE, Access({}), ReservationState())
    assert set(node.runtime.condemned()) == {SPEC.uid}
    node.fail.clear()
    node.acts.clear()
    node.kernel.build(SPEC, DEVICE, Access({}), ReservationState())
    assert node.acts[-3:] == ["expect_restored", repr(RESTORED), "expect_trap"]
    assert not node.runtime.condemned()
    monkeypatch.setattr(kernel_room, "tell", lambda *_: node.runtime.condemn(SPEC.uid, "the trap is gone"))
    node.kernel.build(SPEC, DEVICE, Access({}), ReservationState())
    assert node.runtime.condemned() == {SPEC.uid: "the trap is gone"}


def test_the_table_is_recorded_without_an_initiator_before_its_acl_goes(node: _Node) -> None:
    """And once more afterwards; who only comes, or an image that keeps no reservations, needs no word."""
    word = repr(leaving({A}))
    set_initiators(node, remove={A})
    assert node.acts == ["expect_trap", word, "expect_trap", "set_acls", "expect_trap", word, "expect_trap"]
    node.acts.clear()
    set_initiators(node, {B})
    without = replace(SPEC, attributes=DeviceAttributes(emulate_pr=0))
    set_initiators(node, remove={A}, spec=without)
    assert node.acts == ["set_acls", "set_acls"]


def test_no_acl_goes_before_the_guard_has_recorded_that(node: _Node) -> None:
    """Without its trap, or when it goes away meanwhile, the initiator keeps what it has."""
    node.fail["expect_trap"] = Unavailable("nothing is mounted")
    with pytest.raises(Unavailable):
        set_initiators(node, remove={A})
    assert node.acts == ["expect_trap"]


def test_no_acl_goes_if_the_guard_condemned_instead_of_recording(node: _Node) -> None:
    """It never answers an error, so its mark is the answer; a registration would come back with the access."""
    node.runtime.condemn(SPEC.uid, "Ceph is silent")
    with pytest.raises(Unavailable, match=r"did not record .*: Ceph is silent"):
        set_initiators(node, remove={A})
    assert node.acts == ["expect_trap", repr(leaving({A})), "expect_trap"]
    node.acts.clear()
    with pytest.raises(Unavailable):
        node.kernel.forget(SPEC, ["a,i,0x1,t"])
    assert node.acts == ["expect_trap", repr(forgetting(["a,i,0x1,t"])), "expect_trap"]


def set_initiators(
    node: _Node,
    newcomers: Collection[Iqn] = (),
    remove: Collection[Iqn] = (),
    *,
    spec: ImageSpec = SPEC,
    recorded: ReservationState | None = None,
    waits_for: str = "",
) -> None:
    """Let these in and take the ACLs of those away."""
    wanted, new = dict.fromkeys(newcomers), frozenset(newcomers)
    node.kernel.set_initiators(SetInitiators(spec, 1, wanted, frozenset(remove), False, new, waits_for), recorded)


def test_a_newcomer_with_a_registration_has_the_export_built_anew(node: _Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ACL is made then. Who is not registered, or has an ACL already, is let in on the fly; where the image could
    not be built anew, the newcomer waits, and who is to go goes."""
    state = ReservationState(registrations=(Registration(Nexus(B, "00023d000001", SPEC.identity.iqn, 1), 1),))
    here: set[Iqn] = set()
    monkeypatch.setattr(Ports, "of", lambda iqn: Ports(iqn, {1: 1}, {1: frozenset(here)}))
    set_initiators(node, {A}, recorded=state)
    assert (node.acts, node.runtime.condemned()) == (["set_acls"], {})
    with pytest.raises(Conflict, match="to be exported anew"):
        set_initiators(node, {B}, recorded=state)
    assert (node.acts, set(node.runtime.condemned())) == (["set_acls"], {SPEC.uid})
    node.runtime.absolve(SPEC.uid, *node.runtime.condemned().values())
    node.acts.clear()
    with pytest.raises(Conflict, match="that waits: a secret"):
        set_initiators(node, {B}, {A}, recorded=state, waits_for="a secret")
    assert (node.acts.count("set_acls"), node.runtime.condemned()) == (1, {})
    here.add(B)
    set_initiators(node, {B}, recorded=state)
    assert not node.runtime.condemned()


@pytest.mark.parametrize(
    ("kind", "marked"), [(ReservationType.EXCLUSIVE_ACCESS, 0), (ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, 1)]
)
def test_the_kernel_hears_nothing_of_who_is_not_allowed(kind: ReservationType, marked: int) -> None:
    """It would put the line in force with the access, forgotten or not, and take the reservation from its holder."""
    nexuses = [Nexus(iqn, "00023d000001", SPEC.identity.iqn, 1) for iqn in (A, B)]
    held = Reservation(kind, nexuses[0], 0 if kind.held_by_all else 1)
    state = ReservationState(registrations=tuple(Registration(each, 1) for each in nexuses), reservation=held)
    (line,) = restoring(SPEC, state, {B})
    assert f"initiator_node={B}," in line
    assert line.count("res_holder=1") == marked
    assert restoring(SPEC, state, set()) == ()


def test_a_guard_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """What cannot be written says so."""
    with pytest.raises(Unavailable, match="did not take a word about reservations"):
        tell(tmp_path, "serial", RESTORED)
