"""What is recorded after what, and when the kernel's table is as it is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DamagedTable, Unavailable
from gateway.model import Iqn
from gateway.reservations import recording
from gateway.reservations.recording import Ports, asleep, content, differs, recorded, successor
from gateway.reservations.sg import ScsiDevice
from gateway.reservations.state import Nexus, Registration, Reservation, ReservationState, ReservationType
from tests.reservations import states

TARGET = Iqn("iqn.2026-11.io.rbdgate:t")
A = Nexus(Iqn("iqn.2026-11.io.rbdgate:a"), "00023d000001", TARGET, 1)
B = Nexus(Iqn("iqn.2026-11.io.rbdgate:b"), "00023d000002", TARGET, 2)
STRANGER = Nexus(Iqn("iqn.2026-11.io.rbdgate:gone"), "00023d000003", TARGET, 1)
PORTS = Ports(TARGET, {1: 1, 2: 2}, {1: frozenset({A.initiator}), 2: frozenset({B.initiator})})
TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


def of(
    *registrations: Registration, held: Reservation | None = None, sequence: int = 1, generation: int = 0
) -> ReservationState:
    """A state of these."""
    return ReservationState(sequence, generation, registrations, held)


def test_sequence_and_generation_only_rise() -> None:
    """Each record raises the sequence; the generation rises when something changed; neither is the kernel's."""
    before = of(Registration(A, 1, since=5), sequence=7, generation=3)
    same = successor(before, of(Registration(A, 1), generation=900), PORTS.binds, now=50)
    assert (same.sequence, same.generation) == (8, 3)
    assert same.registrations == (Registration(A, 1, since=5),)
    more = successor(before, of(Registration(A, 1), Registration(B, 2)), PORTS.binds, now=50)
    assert (more.sequence, more.generation) == (8, 4)
    assert more.registrations == (Registration(A, 1, since=5), Registration(B, 2, since=50))


def test_since_is_kept_for_as_long_as_it_is_the_same() -> None:
    """A reservation keeps its time while type, holder and key do; a changed key is a new registration."""
    held = Reservation(TYPE, A, 1, since=9)
    before = of(Registration(A, 1, since=9), held=held)
    after = successor(before, of(Registration(A, 1), held=replace(held, since=0)), PORTS.binds, now=70)
    assert after.reservation == held
    after = successor(before, of(Registration(A, 4), held=Reservation(TYPE, A, 4)), PORTS.binds, now=70)
    assert after.reservation == Reservation(TYPE, A, 4, since=70)
    assert after.registrations == (Registration(A, 4, since=70),)


def test_what_does_not_bind_stays_recorded() -> None:
    """A stale registration, and what it holds, survive a record of a table that cannot know them."""
    held = Reservation(TYPE, STRANGER, 3)
    before = of(Registration(STRANGER, 3), held=held)
    after = successor(before, of(Registration(A, 1)), PORTS.binds, now=70)
    assert [each.nexus for each in after.registrations] == [A, STRANGER]
    assert after.reservation == held
    taken = Reservation(TYPE, A, 1)
    after = successor(before, of(Registration(A, 1), held=taken), PORTS.binds, now=70)
    assert after.reservation == replace(taken, since=70)


@pytest.mark.parametrize("isid", [STRANGER.isid, "40000137"])
def test_who_is_allowed_at_this_moment_is_recorded_once(isid: str) -> None:
    """The table has it already, and who is allowed was read before: it is not stale besides."""
    nexus = replace(STRANGER, isid=isid)
    before = of(Registration(nexus, 3, since=5), Registration(A, 1, since=5))
    after = successor(before, of(Registration(nexus.told, 3), Registration(A, 1)), PORTS.binds, now=70)
    assert [each.nexus for each in after.registrations] == [nexus.told, A]


def test_what_binds_and_is_not_in_the_table_is_gone() -> None:
    """The kernel's table is the truth about everybody who can reach it."""
    before = of(Registration(A, 1), held=Reservation(TYPE, A, 1))
    after = successor(before, of(), PORTS.binds, now=70)
    assert (after.registrations, after.reservation) == ((), None)


@given(states(), states(), st.integers(1, 10**9))
def test_a_record_says_what_the_table_says(before: ReservationState, table: ReservationState, now: int) -> None:
    """Where everything binds, what is recorded says exactly what the kernel says."""
    if before.sequence < 2**32 - 1 and before.generation < 2**32 - 1:
        after = successor(before, table, lambda _: True, now)
        assert content(after) == content(table)
        assert after.sequence == before.sequence + 1


def test_differences_are_told() -> None:
    """Missing and extra registrations, another key and another holder; half an ISID and stale entries are none."""
    state = of(Registration(A, 1), Registration(B, 2), Registration(STRANGER, 3), held=Reservation(TYPE, A, 1))
    table = of(Registration(A, 1), Registration(B, 2), held=Reservation(TYPE, A, 1))
    assert differs(state, table, PORTS) is None
    assert "1 registrations are missing" in str(differs(state, of(Registration(B, 2)), PORTS))
    other_key = of(Registration(A, 9), Registration(B, 2), held=Reservation(TYPE, A, 9))
    assert "not recorded" in str(differs(state, other_key, PORTS))
    assert "reservation" in str(differs(state, replace(table, reservation=None), PORTS))
    assert "reservation" in str(differs(state, replace(table, reservation=Reservation(TYPE, B, 2)), PORTS))
    half, none = (replace(A, isid=isid) for isid in ("00023d00", ""))
    assert differs(of(Registration(half, 1)), of(Registration(none, 1)), PORTS) is None


def test_where_all_hold_the_kernels_own_holder_does_not_matter() -> None:
    """For the types that all registrants hold, whom the kernel keeps as the holder is its own affair."""
    kind = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS
    both = (Registration(A, 1), Registration(B, 2))
    assert differs(of(*both, held=Reservation(kind, A, 1)), of(*both, held=Reservation(kind, B, 2)), PORTS) is None


@pytest.mark.parametrize("holder", [A, STRANGER])
def test_where_all_hold_and_nobody_is_here_nothing_is_held_here(holder: Nexus) -> None:
    """Stale registrants keep no image from being exported, and one that binds is enough to hold for all."""
    held = Reservation(ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, holder, 0)
    nobody = of(Registration(STRANGER, 3), held=held)
    assert differs(nobody, of(), PORTS) is None
    somebody = of(Registration(STRANGER, 3), Registration(B, 2), held=held)
    assert "reservation" in str(differs(somebody, of(Registration(B, 2)), PORTS))
    assert differs(somebody, of(Registration(B, 2), held=replace(held, holder=B)), PORTS) is None


def test_what_stale_registrants_hold_stays_recorded_until_it_is_released() -> None:
    """Not in force here, it outlives a record; in force through one that binds, it ends with that one's RELEASE."""
    held = Reservation(ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, STRANGER, 0)
    before = of(Registration(STRANGER, 3), held=held)
    assert asleep(before, PORTS.binds)
    assert successor(before, of(), PORTS.binds, now=70).reservation == held
    assert successor(before, of(Registration(A, 1)), PORTS.binds, now=70).reservation == held
    before = of(Registration(STRANGER, 3), Registration(A, 1), held=held)
    assert not asleep(before, PORTS.binds)
    after = successor(before, of(Registration(A, 1)), PORTS.binds, now=70)
    assert (len(after.registrations), after.reservation) == (2, None)


def test_another_images_device_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is free as soon as the export is gone, and is looked up once more when the device is open."""
    (tmp_path / "sg1").touch()
    names = iter([str(tmp_path / "sg1"), str(tmp_path / "sg2")])
    monkeypatch.setattr(recording, "scsi_generic", lambda _uid: next(names))
    monkeypatch.setattr(recording, "read_table", lambda *_, **__: pytest.fail("read"))
    monkeypatch.setattr(recording, "ScsiDevice", lambda path: ScsiDevice(path, lambda *_: None))
    with pytest.raises(Unavailable, match="sg1 is not image 0123456789abcdef's any more"):
        recording.read_state("0123456789abcdef", PORTS, (), timeout=1.0)


def test_a_missing_text_is_damage() -> None:
    """A holder's header always has a table: none at all means that somebody took it away."""
    with pytest.raises(DamagedTable, match="missing"):
        recorded(None)
