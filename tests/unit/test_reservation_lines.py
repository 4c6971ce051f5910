"""LIO's lines: what restores a state, what its text says, and its table as our state."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadInput, Inconsistent
from gateway.model import Iqn
from gateway.reservations.lines import TextRegistration, parse_aptpl_text, restore_lines, state_from
from gateway.reservations.scsi import Descriptor, FullStatus
from gateway.reservations.state import Nexus, Registration, Reservation, ReservationState, ReservationType

ALICE, BOB = Iqn("iqn.2026-11.x:alice"), Iqn("iqn.2026-11.x:bob")
DISK, OTHER = Iqn("iqn.2026-11.x:disk"), Iqn("iqn.2026-11.x:other")
SID = "00023d000001"
PORTS = {1: 11, 2: 12}
TAGS = {11: 1, 12: 2}
ONE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
ALL = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS

AT_1, AT_2 = Nexus(ALICE, SID, DISK, 1), Nexus(BOB, "", DISK, 2)
ALICE_AT_1 = Registration(AT_1, 4660)
BOB_AT_2 = Registration(AT_2, (1 << 64) - 1, all_tg_pt=True)

TEXT = b"""PR_REG_START: 0
initiator_fabric=iSCSI
initiator_node=iqn.2026-11.x:alice
initiator_sid=00023d000001
sa_res_key=4660
res_holder=1
res_type=05
res_scope=00
res_all_tg_pt=0
mapped_lun=0
target_fabric=iSCSI
target_node=iqn.2026-11.x:disk
tpgt=1
port_rtpi=11
target_lun=0
PR_REG_END: 0
PR_REG_START: 1
initiator_fabric=loopback
initiator_node=naa.6001405aabbccdd0
sa_res_key=1
res_holder=0
res_all_tg_pt=0
mapped_lun=0
target_fabric=loopback
target_node=naa.6001405aabbccdd1
tpgt=1
port_rtpi=3
target_lun=0
PR_REG_END: 1
PR_REG_START: 2
initiator_fabric=iSCSI
initiator_node=iqn.2026-11.x:bob
sa_res_key=18446744073709551615
res_holder=0
res_all_tg_pt=1
mapped_lun=0
target_fabric=iSCSI
target_node=iqn.2026-11.x:disk
tpgt=2
port_rtpi=12
target_lun=0
PR_REG_END: 2
\0"""
IN_TEXT = (
    TextRegistration(ALICE, SID, 4660, False, DISK, 1, True),
    TextRegistration(BOB, "", (1 << 64) - 1, True, DISK, 2, False),
)


@st.composite
def states(draw: st.DrawFn) -> ReservationState:
    """A state of up to eight registrations, held by one, by all or by nobody, with 12-digit or no ISIDs."""
    nexuses = draw(
        st.lists(
            st.builds(
                Nexus,
                st.sampled_from((ALICE, BOB)),
                st.sampled_from(("", SID, "00023d000002")),
                st.just(DISK),
                st.sampled_from((1, 2)),
            ),
            unique=True,
            max_size=8,
        )
    )
    registrations = tuple(
        Registration(nexus, draw(st.integers(1, (1 << 64) - 1)), draw(st.booleans())) for nexus in nexuses
    )
    kind = draw(st.none() | st.sampled_from(ReservationType)) if registrations else None
    holder = draw(st.sampled_from(registrations)) if kind is not None else None
    return ReservationState(
        sequence=draw(st.integers(0, (1 << 32) - 1)),
        generation=draw(st.integers(0, (1 << 32) - 1)),
        registrations=registrations,
        reservation=Reservation(kind, holder.nexus, holder.key) if kind is not None and holder is not None else None,
    )


def table_of(state: ReservationState) -> FullStatus:
    """The table that a kernel with this state tells."""

    def descriptor(each: Registration) -> Descriptor:
        held = state.reservation
        holds = held is not None and (held.type.held_by_all or held.holder == each.nexus)
        return Descriptor(
            key=each.key,
            all_tg_pt=each.all_tg_pt,
            holder=holds,
            type=held.type if holds and held is not None else None,
            relative_port=None if each.all_tg_pt else PORTS[each.nexus.tag],
            initiator=each.nexus.initiator,
            isid=each.nexus.isid,
        )

    return FullStatus(state.generation, tuple(descriptor(each) for each in state.registrations))


def read(*descriptors: Descriptor, hints: tuple[Nexus, ...] = ()) -> ReservationState:
    """Those descriptors, read with the ports above."""
    return state_from(FullStatus(3, descriptors), target=DISK, tag_of_port=TAGS, hints=hints, sequence=5)


def test_a_holder_and_a_peer_are_restored() -> None:
    """The lines are the kernel's words in its order: numbers decimal, the type for the holder, no word for no ISID."""
    state = ReservationState(1, 2, (ALICE_AT_1, BOB_AT_2), Reservation(ONE, AT_1, 4660))
    assert restore_lines(state, PORTS) == (
        "initiator_fabric=iSCSI,initiator_node=iqn.2026-11.x:alice,initiator_sid=00023d000001,sa_res_key=4660,"
        "res_holder=1,res_type=5,res_scope=0,res_all_tg_pt=0,mapped_lun=0,target_fabric=iSCSI,"
        "target_node=iqn.2026-11.x:disk,tpgt=1,port_rtpi=11,target_lun=0",
        "initiator_fabric=iSCSI,initiator_node=iqn.2026-11.x:bob,sa_res_key=18446744073709551615,"
        "res_holder=0,res_all_tg_pt=1,mapped_lun=0,target_fabric=iSCSI,"
        "target_node=iqn.2026-11.x:disk,tpgt=2,port_rtpi=12,target_lun=0",
    )
    assert restore_lines(ReservationState(), PORTS) == ()


def test_half_an_isid_is_no_isid() -> None:
    """Eight digits, which another product's text told, are no ISID that the kernel could find again."""
    (line,) = restore_lines(
        ReservationState(registrations=(Registration(Nexus(ALICE, "40000137", DISK, 1), 1),)), PORTS
    )
    assert "initiator_sid" not in line


@pytest.mark.parametrize(("holder", "marked"), [(AT_2, [0, 1]), (Nexus(ALICE, "", OTHER, 9), [1, 0])])
def test_somebody_is_marked_if_all_registrants_hold(holder: Nexus, marked: list[int]) -> None:
    """For all registrants the mark is the recorded nexus's, or the first line's if that one is not registered."""
    state = ReservationState(1, 2, (ALICE_AT_1, BOB_AT_2), Reservation(ALL, holder, 0))
    lines = restore_lines(state, PORTS)
    assert [line.count("res_holder=1,res_type=8,res_scope=0,") for line in lines] == marked


def test_a_registration_without_a_port_is_not_restored() -> None:
    """A tag that has no port is named, instead of a line that binds nowhere."""
    with pytest.raises(BadInput, match=r"bob .* tag 2: there is no port"):
        restore_lines(ReservationState(registrations=(BOB_AT_2,)), {1: 11})


@given(states())
def test_the_kernel_can_take_every_line(state: ReservationState) -> None:
    """A line fits configfs's page, has each word once, no number with a leading zero, and one line at most holds."""
    lines = restore_lines(state, PORTS)
    assert len(lines) == len(state.registrations)
    for line in lines:
        assert len(line) < 4096
        pairs = [word.partition("=") for word in line.split(",")]
        words = {key: value for key, _, value in pairs}
        assert len(words) == len(pairs)
        numbers = [
            value for key, value in words.items() if not key.startswith(("initiator_", "target_fab", "target_n"))
        ]
        assert all(str(int(number)) == number for number in numbers)
        assert ("res_type" in words) == (words["res_holder"] == "1")
    assert sum("res_holder=1" in line for line in lines) == (state.reservation is not None)


def test_the_kernels_text_is_read() -> None:
    """The text's iSCSI registrations come in its order, with or without its NUL; others' are passed over."""
    assert parse_aptpl_text(TEXT) == IN_TEXT
    assert parse_aptpl_text(TEXT.rstrip(b"\0")) == IN_TEXT
    assert IN_TEXT[0].nexus == AT_1


@pytest.mark.parametrize("end", [b"", b"\n", b"\0", b"\n\0", b"\0\0"])
def test_nobody_is_registered_in_either_form(end: bytes) -> None:
    """CLEAR writes the sentence with a newline, the other acts without one."""
    assert parse_aptpl_text(b"No Registrations or Reservations" + end) == ()


def test_a_word_of_a_newer_kernel_is_passed_over() -> None:
    """A word that is not known changes nothing."""
    assert parse_aptpl_text(TEXT.replace(b"tpgt=1\n", b"tpgt=1\nres_new=x\n")) == IN_TEXT


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (TEXT, b"\0", "is empty"),
        (TEXT, b"\xff", "ascii"),
        (b"PR_REG_END: 2\n", b"", "line 41: registration 2 has no end"),
        (b"PR_REG_START: 1\n", b"PR_REG_START: 4\n", "line 17: .* where registration 1 should start"),
        (b"PR_REG_END: 0\n", b"PR_REG_END: 1\n", "line 16"),
        (b"res_holder=1\n", b"res_holder=1\nres_holder=1\n", "line 7: .* or its second"),
        (b"res_holder=1\n", b"\n", "line 6"),
        (b"res_holder=1\n", b"res_holder=2\n", "registration 0 .*: res_holder '2' is out of range: 0 to 1"),
        (b"sa_res_key=4660\n", b"sa_res_key=0\n", "sa_res_key '0' is out of range"),
        (b"sa_res_key=4660\n", b"", "registration 0 .* has no sa_res_key"),
        (b"initiator_sid=00023d000001\n", b"initiator_sid=00023D000001\n", "ISID '00023D000001'"),
        (b"initiator_node=iqn.2026-11.x:alice\n", b"initiator_node=alice\n", "no iSCSI name"),
        (b"initiator_fabric=loopback\n", b"", "registration 1 has no initiator_fabric"),
    ],
)
def test_garbage_is_refused(old: bytes, new: bytes, why: str) -> None:
    """A text that is not the kernel's is refused with the line or the registration."""
    assert TEXT.count(old) == 1
    with pytest.raises(Inconsistent, match=why):
        parse_aptpl_text(TEXT.replace(old, new))


@given(st.integers(0, len(TEXT)), st.integers(0, len(TEXT)), st.binary(max_size=3))
def test_of_damage_only_inconsistent_comes(start: int, length: int, put: bytes) -> None:
    """Whatever is cut out or put in, reading gives registrations or raises Inconsistent, and nothing else."""
    damaged = TEXT[:start] + put + TEXT[start + length :]
    with contextlib.suppress(Inconsistent):
        parse_aptpl_text(damaged)


@given(states())
def test_the_table_of_a_state_is_that_state(state: ReservationState) -> None:
    """With every nexus as a hint, the kernel's table is read back as the state that it is of."""
    read_back = state_from(
        table_of(state),
        target=DISK,
        tag_of_port=TAGS,
        hints=[each.nexus for each in state.registrations],
        sequence=state.sequence,
    )
    held = state.reservation
    if held is not None and held.type.held_by_all:
        first = state.registrations[0]
        held = Reservation(held.type, first.nexus, first.key)
    assert read_back == ReservationState(state.sequence, state.generation, state.registrations, held)


def test_hints_give_their_tags_in_order() -> None:
    """Peers of ALL_TG_PT take the hints of their initiator and ISID in order, and never another's or a taken one."""
    peer = Descriptor(7, True, False, None, None, ALICE, "")
    known = Descriptor(8, False, False, None, 11, ALICE, "")
    hints = (
        Nexus(ALICE, "", OTHER, 4),
        Nexus(BOB, "", DISK, 5),
        Nexus(ALICE, SID, DISK, 6),
        Nexus(ALICE, "", DISK, 1),
        Nexus(ALICE, "", DISK, 3),
        Nexus(ALICE, "", DISK, 3),
        Nexus(ALICE, "", DISK, 2),
    )
    state = read(peer, known, peer, peer, hints=hints)
    assert [(each.nexus.tag, each.key, each.all_tg_pt) for each in state.registrations] == [
        (3, 7, True),
        (1, 8, False),
        (2, 7, True),
    ]
    assert (state.sequence, state.generation, state.reservation) == (5, 3, None)


def test_a_holder_that_is_not_known_is_refused() -> None:
    """A reservation cannot be recorded for a nexus whose port nobody has told yet."""
    holder = Descriptor(7, True, True, ONE, None, ALICE, SID)
    with pytest.raises(Inconsistent, match=r"alice with key 0x7, is not known yet"):
        read(holder)
    assert read(holder, hints=(AT_1,)).reservation == Reservation(ONE, AT_1, 7)


def test_one_known_holder_of_all_is_enough() -> None:
    """Where all registrants hold, the first one that is known stands for them."""
    unknown, known = Descriptor(7, True, True, ALL, None, BOB, ""), Descriptor(8, False, True, ALL, 11, ALICE, SID)
    assert read(unknown, known).reservation == Reservation(ALL, AT_1, 8)
    with pytest.raises(Inconsistent, match="not known yet"):
        read(unknown)


@pytest.mark.parametrize(
    ("descriptors", "why"),
    [
        ((Descriptor(7, False, False, None, 13, ALICE, SID),), "alice is registered at relative port 13"),
        ((Descriptor(7, False, False, None, 1, None, "", 6),), "key 0x7 is registered by protocol 6"),
        ((Descriptor(7, False, False, None, 11, ALICE, SID),) * 2, "registered twice"),
        ((Descriptor(0, False, False, None, 11, ALICE, SID),), "reservation key 0x0"),
        (
            (Descriptor(7, False, True, ONE, 11, ALICE, SID), Descriptor(7, False, True, ALL, 12, ALICE, SID)),
            "marks 2 holders: exclusive access all registrants, write exclusive registrants only",
        ),
    ],
)
def test_a_table_that_cannot_be_ours_is_refused(descriptors: tuple[Descriptor, ...], why: str) -> None:
    """An unknown port, another protocol, a nexus twice, a key of 0 and two holders are refused with the reason."""
    with pytest.raises(Inconsistent, match=why):
        read(*descriptors)
