"""PERSISTENT RESERVE as bytes: what goes out is the standard's, what comes in is read whole or refused."""

from __future__ import annotations

import contextlib
import itertools
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadInput, Inconsistent
from gateway.model import Iqn
from gateway.reservations.scsi import (
    ALLOCATION_LENGTH,
    OVERRUN,
    Descriptor,
    FullStatus,
    OutAction,
    parse_full_status,
    parse_keys,
    parse_reservation,
    read_full_status_cdb,
    read_keys_cdb,
    read_reservation_cdb,
    reserve_out_cdb,
    reserve_out_parameters,
)
from gateway.reservations.state import MAX_REGISTRATIONS, ReservationType

ALICE = Iqn("iqn.2026-11.x:a")
TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
ALL = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS

# One holder at relative port 2 (write exclusive, registrants only), by its initiator port; one peer of ALL_TG_PT, by
# its initiator device; one through tcm_loop, which is SAS.
TABLE = bytes.fromhex(
    "00000007 0000009c"  # PRGENERATION, ADDITIONAL LENGTH: 64 + 44 + 48
    "0000000000001234 00000000 01 05 00000000 0002 00000028"
    "45 00 0024"  # format code 01b, iSCSI, ADDITIONAL LENGTH 36
    "69716e2e323032362d31312e783a61"  # iqn.2026-11.x:a
    "2c692c3078 303030323364303030303031 00 000000"  # ,i,0x 00023d000001, NUL, padding
    "00000000000000ff 00000000 02 00 00000000 0000 00000014"
    "05 00 0010 69716e2e323032362d31312e783a61 00"
    "0000000000000abc 00000000 00 00 00000000 0003 00000018"
    "06 000000 6001405aabbccdd0 00000000000000000000 0000"
)
PORT = Descriptor(0x1234, False, True, TYPE, 2, ALICE, "00023d000001")
PEER = Descriptor(0xFF, True, False, None, None, ALICE, "")
LOOP = Descriptor(0xABC, False, False, None, 3, None, "", 6)


def transport_id(descriptor: Descriptor) -> bytes:
    """A TransportID as LIO makes it: a short iSCSI name is padded to four bytes, not to the standard's 20."""
    if descriptor.initiator is None:
        return bytes([descriptor.protocol]) + bytes(23)
    text = descriptor.initiator.text + (f",i,0x{descriptor.isid}" if descriptor.isid else "")
    name = text.encode() + b"\0"
    name += bytes(-len(name) % 4)
    return struct.pack(">BxH", 5 | (0x40 if descriptor.isid else 0), len(name)) + name


def full_status(table: FullStatus) -> bytes:
    """The table as LIO puts it into a buffer."""
    body = b""
    for each in table.descriptors:
        name = transport_id(each)
        flags = each.all_tg_pt << 1 | each.holder
        body += struct.pack(">Q4xBB4xHI", each.key, flags, each.type or 0, each.relative_port or 0, len(name)) + name
    return struct.pack(">II", table.generation, len(body)) + body


@st.composite
def descriptors(draw: st.DrawFn) -> Descriptor:
    """Any registration that READ FULL STATUS can tell."""
    iscsi = draw(st.booleans())
    kind = draw(st.none() | st.sampled_from(ReservationType))
    all_tg_pt = draw(st.booleans())
    return Descriptor(
        key=draw(st.integers(0, (1 << 64) - 1)),
        all_tg_pt=all_tg_pt,
        holder=kind is not None,
        type=kind,
        relative_port=None if all_tg_pt else draw(st.integers(0, 65535)),
        initiator=Iqn("iqn.2026-11.x:" + draw(st.text("abc0123.-:", min_size=1, max_size=60))) if iscsi else None,
        isid=draw(st.just("") | st.text("0123456789abcdef", min_size=12, max_size=12)) if iscsi else "",
        protocol=5 if iscsi else draw(st.sampled_from((0, 3, 4, 6))),
    )


tables = st.builds(FullStatus, st.integers(0, (1 << 32) - 1), st.lists(descriptors(), max_size=6).map(tuple))


def test_commands_are_the_standards() -> None:
    """The commands' bytes: operation code, service action, scope and type, and the length where each has it."""
    assert read_keys_cdb().hex(" ") == "5e 00 00 00 00 00 00 ff c0 00"
    assert read_reservation_cdb().hex(" ") == "5e 01 00 00 00 00 00 ff c0 00"
    assert read_full_status_cdb().hex(" ") == "5e 03 00 00 00 00 00 ff c0 00"
    assert reserve_out_cdb(OutAction.PREEMPT, TYPE, 24).hex(" ") == "5f 04 05 00 00 00 00 00 18 00"
    assert reserve_out_cdb(OutAction.REGISTER, None, 0x10203).hex(" ") == "5f 00 00 00 00 00 01 02 03 00"


@given(st.lists(st.integers(6, 61).map(lambda words: 4 * words), min_size=1, max_size=60))
def test_what_lio_writes_too_far_stays_in_the_last_page(lengths: list[int]) -> None:
    """Whatever TransportIDs a table repeats, LIO's answer ends before the buffer's pages do."""
    listed, written = 0, 8
    for length in itertools.cycle(lengths):
        if length + listed > ALLOCATION_LENGTH:  # LIO's own check
            break
        written = 8 + listed + 24 + length
        listed += 24 + length
    assert written <= ALLOCATION_LENGTH + OVERRUN < 16 * 4096


@pytest.mark.parametrize(("characters", "room"), [(78, MAX_REGISTRATIONS), (79, 511), (82, 511), (83, 495), (223, 240)])
def test_how_many_registrations_can_be_read(characters: int, room: int) -> None:
    """The README's numbers: as many as LIO's answer has room for, and no more than are taken."""
    one = replace(PORT, initiator=Iqn("iqn.2026-11.x:".ljust(characters, "a")))

    def length(count: int) -> int:
        return len(full_status(FullStatus(1, (one,) * count)))

    assert length(room) <= ALLOCATION_LENGTH
    assert room == MAX_REGISTRATIONS or length(room + 1) > ALLOCATION_LENGTH


def test_which_names_fill_an_initiators_page_to_its_end() -> None:
    """The README's numbers: by how many registrations LIO writes past a page that an initiator asked for."""
    overrun = {}
    for characters in range(25, 67):
        each = len(transport_id(replace(PORT, initiator=Iqn("iqn.2026-11.x:".ljust(characters, "a")))))
        count = 1 + (4096 - each) // (24 + each)  # by LIO's own check, as above
        if 8 + count * (24 + each) > 4096:
            overrun[characters] = count
    assert overrun.keys() == {*range(25, 31), *range(35, 39), *range(51, 55), *range(59, 63)}
    assert (max(overrun.values()), overrun[38], min(overrun.values())) == (57, 49, 38)


def test_parameters_are_the_standards() -> None:
    """The parameter list: both keys, and each flag at its bit."""
    plain = reserve_out_parameters(key=0x1234, new_key=(1 << 64) - 1)
    assert plain.hex() == "0000000000001234" + "f" * 16 + "00" * 8
    flags = [
        reserve_out_parameters(key=0, new_key=1, **{flag: True})[20] for flag in ("aptpl", "all_tg_pt", "spec_i_pt")
    ]
    assert flags == [0x01, 0x04, 0x08]
    assert len(plain) == 24
    with pytest.raises(BadInput, match="not a number of 64 bits"):
        reserve_out_parameters(key=0, new_key=1 << 64)


def test_keys_are_read() -> None:
    """READ KEYS is the generation and the keys in order, and what comes after them is no key."""
    data = bytes.fromhex("00000003 00000010 0000000000001234 00000000000000ff") + bytes(8)
    assert parse_keys(data) == (3, (0x1234, 0xFF))
    assert parse_keys(bytes(8)) == (0, ())
    with pytest.raises(Inconsistent, match="offset 4: 12 bytes are no whole number of keys"):
        parse_keys(bytes.fromhex("00000003 0000000c") + bytes(12))
    with pytest.raises(Inconsistent, match="offset 4: 24 bytes are announced and 16 came"):
        parse_keys(bytes.fromhex("00000003 00000018") + bytes(16))


def test_the_reservation_is_read() -> None:
    """READ RESERVATION is who holds what, or that nobody does."""
    held = bytes.fromhex("00000003 00000010 0000000000001234 00000000 00 05 0000")
    assert parse_reservation(held) == (3, 0x1234, TYPE)
    assert parse_reservation(bytes.fromhex("00000003 00000000")) == (3, 0, None)
    with pytest.raises(Inconsistent, match="offset 21: 0x2 is no type"):
        parse_reservation(held[:21] + b"\x02" + held[22:])
    with pytest.raises(Inconsistent, match="offset 21: scope 2"):
        parse_reservation(held[:21] + b"\x25" + held[22:])
    with pytest.raises(Inconsistent, match="offset 4: 8 bytes are neither 0 nor 16"):
        parse_reservation(bytes.fromhex("00000003 00000008") + bytes(8))


def test_a_whole_table_is_read() -> None:
    """A holder by its port, a peer of ALL_TG_PT by its device, and another protocol's registration, byte for byte."""
    table = FullStatus(7, (PORT, PEER, LOOP))
    assert parse_full_status(TABLE) == table
    assert parse_full_status(TABLE + b"left over") == table
    assert table.keys == (0x1234, 0xFF, 0xABC)
    assert table.holders == (PORT,)
    assert parse_full_status(bytes(8)) == FullStatus(0, ())


@given(tables)
def test_what_is_put_in_is_read_back(table: FullStatus) -> None:
    """Every table that LIO can put into a buffer is read back as it is."""
    assert parse_full_status(full_status(table)) == table


@pytest.mark.parametrize(
    ("offset", "byte", "why"),
    [
        (7, 0xFF, "offset 4: 255 bytes are announced"),
        (7, 0x10, "offset 8: 16 bytes are no descriptor of 24"),
        (21, 0x02, "offset 21: 0x2 is no type"),
        (28, 0xFF, "offset 28: .* bytes are announced"),
        (31, 0x02, "offset 32: 2 bytes are no TransportID"),
        (32, 0x85, "offset 32: format code 10b"),
        (35, 0x26, "offset 34: a TransportID of 38 bytes in 40 is too long"),
        (35, 0x0F, "offset 36: the iSCSI name has no end"),
        (36, 0x49, "offset 36: .*normal form"),
        (36, 0xC3, "offset 36: .*ascii"),
        (51, 0x2D, "offset 36: no ',i,0x'"),
        (51, 0x00, "offset 36: no ',i,0x'"),
        (56, 0x41, "offset 36: ISID b'A0023d000001' is not 12"),
    ],
)
def test_a_damaged_table_is_refused_by_offset(offset: int, byte: int, why: str) -> None:
    """What cannot be understood is refused, with the offset at which it stands."""
    damaged = bytearray(TABLE)
    damaged[offset] = byte
    with pytest.raises(Inconsistent, match=why):
        parse_full_status(bytes(damaged))


@given(tables, st.data())
def test_of_damage_only_inconsistent_comes(table: FullStatus, data: st.DataObject) -> None:
    """Whatever is cut off or overwritten, a parse gives a value or raises Inconsistent, and nothing else."""
    whole = full_status(table)
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, max(len(damaged) - 1, 0)), max_size=4)) if damaged else ():
        damaged[at] = data.draw(st.integers(0, 255))
    for parse in (parse_full_status, parse_keys, parse_reservation):
        with contextlib.suppress(Inconsistent):
            parse(bytes(damaged))


def test_marks_of_two_reservations_do_not_agree() -> None:
    """Marks agree if nobody holds, if one does, or if all do for all registrants; any other mix is of two moments."""
    free = Descriptor(1, False, False, None, 1, ALICE, "")
    one, every = (Descriptor(1, False, True, kind, 1, ALICE, "") for kind in (TYPE, ALL))
    for agreeing in ((), (free,), (one, free), (every,), (every, every)):
        assert FullStatus(1, agreeing).marks_agree
    for torn in ((one, one), (one, every), (every, free)):
        assert not FullStatus(1, torn).marks_agree
