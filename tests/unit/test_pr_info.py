"""The text of `pr_info`: byte for byte what version 1 is, read back as it was meant, and refused by the line if not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadInput, DamagedTable, NewerSchema
from gateway.images.sequence import EMPTY_PR_INFO, next_pr_info, sequence_of
from gateway.model import Iqn
from gateway.reservations.pr_info import EMPTY, MAX_TEXT, decode, encode
from gateway.reservations.state import (
    MAX_REGISTRATIONS,
    Nexus,
    Registration,
    Reservation,
    ReservationState,
    ReservationType,
)
from tests.reservations import TARGET, crowd, states

A, B = Iqn("iqn.1993-08.org.debian:01:a"), Iqn("iqn.1991-05.com.microsoft:b")
A1 = Nexus(A, "400001370000", TARGET, 1)
STATE = ReservationState(
    sequence=7,
    generation=18,
    registrations=(
        Registration(A1, 0xABC1, all_tg_pt=True, since=1767225600),
        Registration(Nexus(A, "", TARGET, 10), 0xABC1, all_tg_pt=True),
        Registration(Nexus(B, "00023d000002", TARGET, 10), 2**64 - 1),
    ),
    reservation=Reservation(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, A1, 0xABC1, since=1767225660),
)
EXAMPLE = b"""\
0x00000001
0x00000007
No SPC-2 Reservation holder
0x00000012
0x000000000000abc1 iqn.1993-08.org.debian:01:a,i,0x3430303030313337,iqn.2026-11.io.rbdgate:disk1,t,0x1 0x00000005 \
isid=400001370000 since=1767225660
0x00000003
0x000000000000abc1 iqn.1993-08.org.debian:01:a,i,0x3430303030313337,iqn.2026-11.io.rbdgate:disk1,t,0x1 \
isid=400001370000 all_tg_pt=1 since=1767225600
0x000000000000abc1 iqn.1993-08.org.debian:01:a,i,0x0,iqn.2026-11.io.rbdgate:disk1,t,0xa isid=none all_tg_pt=1
0xffffffffffffffff iqn.1991-05.com.microsoft:b,i,0x3030303233643030,iqn.2026-11.io.rbdgate:disk1,t,0xa \
isid=00023d000002
\0"""
FOREIGN = b"""\
0x00000001
0x0000002a
iqn.1993-08.org.debian:01:a,i,0x3430303030313337,iqn.2026-11.io.rbdgate:disk1,t,0x1
0x00000003
0x000000000000abc1 iqn.1993-08.org.debian:01:a,i,0x3430303030313337,iqn.2026-11.io.rbdgate:disk1,t,0x1 0x00000003
0x00000002
0x000000000000abc1 iqn.1993-08.org.debian:01:a,i,0x3430303030313337,iqn.2026-11.io.rbdgate:disk1,t,0x1
0x000000000000abc2 iqn.1991-05.com.microsoft:b,i,0x3030303233643030,iqn.2026-11.io.rbdgate:disk1,t,0x2
\0"""

quick = settings(max_examples=60)


def with_line(number: int, old: str, new: str, text: bytes = EXAMPLE) -> bytes:
    """The text with something else on one line, where it must be in it."""
    lines = text.split(b"\n")
    assert old.encode("latin-1") in lines[number]
    lines[number] = lines[number].replace(old.encode("latin-1"), new.encode("latin-1"))
    return b"\n".join(lines)


def test_the_example_is_written_byte_for_byte() -> None:
    """The ISID's first eight characters are the nexus' number; what version 1 cannot carry follows as words."""
    assert encode(STATE) == EXAMPLE


def test_the_example_is_read_as_it_was_meant() -> None:
    """Keys, sessions, peers without a session, times, holder and type all come back."""
    assert decode(EXAMPLE) == STATE


def test_the_empty_table_is_the_one_that_a_fence_creates() -> None:
    """Whoever makes the first `pr_info`, the bytes are the same."""
    assert EMPTY == EMPTY_PR_INFO
    assert decode(EMPTY) == ReservationState()


@quick
@given(states())
def test_every_state_comes_back(state: ReservationState) -> None:
    """Nothing of a state is lost or changed in its text."""
    assert decode(encode(state)) == state


@quick
@given(states())
def test_a_canonical_text_comes_back(state: ReservationState) -> None:
    """Reading a text that we wrote and writing it again changes no byte, so a compare on the old bytes holds."""
    text = encode(state)
    assert encode(decode(text)) == text


@quick
@given(states())
def test_a_fence_raises_the_sequence_of_every_text(state: ReservationState) -> None:
    """What raises the sequence without reading the rest understands each text, and leaves the rest alone."""
    text = encode(state)
    assert sequence_of(text) == state.sequence
    assert decode(next_pr_info(text)) == replace(state, sequence=(state.sequence + 1) % 2**32)


def test_another_products_text_is_read_and_written_again_unchanged() -> None:
    """Without words an ISID is its first eight digits, and nobody's SPC-2 holder is dropped."""
    state = decode(FOREIGN)
    assert [(each.nexus.isid, each.all_tg_pt, each.since) for each in state.registrations] == [
        ("40000137", False, 0),
        ("00023d00", False, 0),
    ]
    assert state.reservation is not None
    assert (state.reservation.holder.isid, state.reservation.type) == ("40000137", ReservationType.EXCLUSIVE_ACCESS)
    assert state.spc2_holder == f"{A},i,0x3430303030313337,{TARGET},t,0x1"
    assert encode(state) == FOREIGN


def test_another_products_missing_isid_is_written_anew_with_its_word() -> None:
    """0x0 is no ISID, with or without the word, and is written with it."""
    text = with_line(7, "0x3030303233643030", "0x0", FOREIGN)
    state = decode(text)
    assert state.registrations[1].nexus.isid == ""
    assert encode(state) == with_line(7, "t,0x2", "t,0x2 isid=none", text)


def test_another_products_holder_has_the_key_it_is_registered_with() -> None:
    """SUSE's kernel leaves the old key on line 4 when its holder registers anew; in our text it is damage."""
    state = decode(with_line(4, "abc1", "0001", FOREIGN))
    assert state == decode(FOREIGN)
    with pytest.raises(DamagedTable, match="holds with key 0x1 and is registered with 0xabc1"):
        decode(with_line(4, "abc1", "0001"))


def test_numbers_are_read_in_either_case_and_padding() -> None:
    """What the kernel's scan would take for a number is one, and is written canonically."""
    text = with_line(3, "0x00000012", "0x12")
    text = with_line(8, "0xffffffffffffffff", "0xFFFFffffFFFFffff", text)
    text = with_line(7, "t,0xa", "t,0x0000000A", with_line(7, "0x000000000000abc1", "0xABC1", text))
    assert encode(decode(text)) == EXAMPLE


def test_two_sessions_with_one_version_1_text_are_two() -> None:
    """Sessions that differ only behind the eighth digit of their ISIDs are both kept, and either can hold."""
    other = replace(A1, isid="400001370001")
    state = ReservationState(
        registrations=(Registration(A1, 1), Registration(other, 2)),
        reservation=Reservation(ReservationType.EXCLUSIVE_ACCESS, other, 2),
    )
    text = encode(state)
    assert text.count(b"%b,i,0x3430303030313337,%b,t,0x1 " % (str(A).encode(), str(TARGET).encode())) == 3
    assert decode(text) == state


def test_all_registrants_need_no_registered_holder() -> None:
    """For types 7 and 8 the nexus of line 4 means nobody, and is kept."""
    state = replace(
        STATE, reservation=Reservation(ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, replace(A1, tag=99), 0)
    )
    assert decode(encode(state)) == state


@pytest.mark.parametrize("count", [256, MAX_REGISTRATIONS])
def test_there_is_room_for_the_registrations(count: int) -> None:
    """So many of the longest registrations are written, and read back."""
    state = ReservationState(registrations=crowd(count))
    text = encode(state)
    assert len(text) < MAX_TEXT
    assert decode(text) == state


def test_more_registrations_than_there_is_room_for_are_refused() -> None:
    """One more than the bound is refused by the line that counts them."""
    text = encode(ReservationState(registrations=crowd(MAX_REGISTRATIONS)))
    more = text.replace(b"\n0x00000200\n", b"\n0x00000201\n").replace(b"\n\0", b"\n0x1 a,i,0x0,b,t,0x1\n\0")
    with pytest.raises(DamagedTable, match=r"^pr_info is damaged: line 5: 513 registrations.*'0x00000201'$"):
        decode(more)


LONG = "iqn.2026-11.io.rbdgate:" + "x" * 201
DAMAGE: dict[str, tuple[int, str, str, str]] = {
    "version 0": (0, "0x00000001", "0x00000000", "no version 0: '0x00000000'"),
    "a version that is none": (0, "0x00000001", "one", "'one'"),
    "a version without 0x": (0, "0x00000001", "00000001", "'00000001'"),
    "a sequence of 36 bits": (1, "0x00000007", "0x000000007", "1 to 8 hex digits: '0x000000007'"),
    "a sequence with a sign": (1, "0x00000007", "0x-7", "'0x-7'"),
    "a sequence with an underscore": (1, "0x00000007", "0x0_7", "'0x0_7'"),
    "no words of an SPC-2 holder": (2, "No SPC-2", "No SPC-3", "'No SPC-3 Reservation holder'"),
    "an empty line": (2, "No SPC-2 Reservation holder", "", "TARGET,t,0xTAG: ''"),
    "a generation that is none": (3, "0x00000012", "0x", "'0x'"),
    "not ASCII": (3, "0x00000012", "0x\xb2", r"printable ASCII.*: '0x\\xb2'"),
    "a carriage return": (4, " 0x00000005", "\r 0x00000005", r"printable ASCII.*abc1 iqn.*\.\.\.'$"),
    "no words of an SPC-3 holder": (4, "since=", "since ", "'since'"),
    "a holder without a type": (4, " 0x00000005 isid=400001370000 since=1767225660", "", "3 fields or more"),
    "type 0": (4, "0x00000005", "0x00000000", "SPC-4 table 244.*'0x00000000'"),
    "type 2": (4, "0x00000005", "0x00000002", "'0x00000002'"),
    "a scope": (4, "0x00000005", "0x00000015", "scope 0: '0x00000015'"),
    "a scope far up": (4, "0x00000005", "0x10000005", "scope 0: '0x10000005'"),
    "a holder that is not registered": (4, ":01:a", ":01:c", "01:c .* holds a reservation and is not registered"),
    "a holder's other session": (4, "isid=400001370000", "isid=400001370001", "is not registered"),
    "a holder's peer": (4, "0x3430303030313337", "0x0", "the ISID is not that of isid=400001370000: '0x0'"),
    "a holder with another key": (4, "abc1", "abc2", "holds with key 0xabc2 and is registered with 0xabc1"),
    "fewer registrations than counted": (5, "0x00000003", "0x00000004", "4 .* announced and 3 .*'0x00000004'"),
    "more registrations than counted": (5, "0x00000003", "0x00000002", "2 .* announced and 3 .*'0x00000002'"),
    "far more counted": (5, "0x00000003", "0xffffffff", "4294967295 registrations"),
    "key 0": (6, "0x000000000000abc1", "0x0000000000000000", "key 0x0 is not 1 to"),
    "a key of 68 bits": (6, "0x000000000000abc1", "0x0000000000000abc1", "16 hex digits: '0x0000000000000abc1'"),
    "no nexus": (6, ",i,0x", ",j,0x", "TARGET,t,0xTAG: 'iqn.1993-08.org.debian:01:a,j,"),
    "no iSCSI name": (6, "iqn.1993-08", "iqn.1993-13", "'iqn.1993-13.org.debian:01:a' is no iSCSI name"),
    "an iSCSI name in upper case": (7, "debian", "DEBIAN", "not in normal form"),
    "an iSCSI name that is too long": (8, str(B), LONG, "TARGET,t,0xTAG: 'iqn.2026-11.*\\.\\.\\.'$"),
    "no target": (8, str(TARGET), "", "'' is no iSCSI name"),
    "tag 0": (7, "t,0xa", "t,0x0", "tag 0 is out of range"),
    "a tag of 17 bits": (7, "t,0xa", "t,0x10000", "tag 65536 is out of range"),
    "an ISID that its word denies": (6, "isid=4", "isid=5", "not that of isid=500001370000: '0x3430303030313337'"),
    "a missing ISID with digits in its word": (7, "isid=none", "isid=000000000000", "isid=000000000000: '0x0'"),
    "an ISID where its word says none": (6, "isid=400001370000", "isid=none", "isid=none: '0x3430303030313337'"),
    "an ISID's word in upper case": (8, "isid=00023d", "isid=00023D", "no value of isid: 'isid=00023D000002'"),
    "an ISID's word of 8 digits": (8, "isid=00023d000002", "isid=00023d00", "'isid=00023d00'"),
    "two spaces": (7, " isid", "  isid", "one space between"),
    "a space at the end": (7, "all_tg_pt=1", "all_tg_pt=1 ", "one space between"),
    "no key": (7, "0x000000000000abc1 ", "", "1 to 16 hex digits: 'iqn.1993-08.org.debian"),
    "all_tg_pt=0": (7, "all_tg_pt=1", "all_tg_pt=0", "no value of all_tg_pt: 'all_tg_pt=0'"),
    "since=0": (6, "since=1767225600", "since=0", "'since=0'"),
    "since in hex": (6, "since=1767225600", "since=0x1", "'since=0x1'"),
    "since far away": (6, "since=1767225600", "since=" + "9" * 20, "no value of since"),
    "a word twice": (7, "isid=none", "isid=none isid=none", "twice.*: 'isid=none'"),
    "words out of order": (7, "isid=none all_tg_pt=1", "all_tg_pt=1 isid=none", "order: 'isid=none'"),
    "a word without a value": (7, "all_tg_pt=1", "all_tg_pt=", "expected NAME=VALUE: 'all_tg_pt='"),
    "a word that is none": (7, "all_tg_pt=1", "peers", "expected NAME=VALUE: 'peers'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_by_its_line(case: str) -> None:
    """What cannot be understood is refused with the number of the line, from 0, and the value."""
    number, old, new, said = DAMAGE[case]
    with pytest.raises(DamagedTable, match=said) as refused:
        decode(with_line(number, old, new))
    assert str(refused.value).startswith(f"pr_info is damaged: line {number}: ")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "isid", ["0x30303032336430ff", "0x3030303233443030", "0x30303032336430", "0x1", "0xf" + "0" * 15]
)
def test_an_isid_of_no_digits_is_refused(isid: str) -> None:
    """Without a word the ISID is eight lower-case hex digits as characters, or 0x0."""
    with pytest.raises(DamagedTable, match=f"^pr_info is damaged: line 7: .* 8 hex digits .*: '{isid}'$"):
        decode(with_line(7, "0x3030303233643030", isid, FOREIGN))


UNKNOWN = {
    "on a registration": (6, "all_tg_pt=1", "lun=3 all_tg_pt=1", "line 6: .*'lun=3'"),
    "at the end": (8, "isid=00023d000002", "isid=00023d000002 " + "z" * 200 + "=1", "line 8: .*'zzz[z]*\\.\\.\\.'"),
    "on the holder's line, where it is none": (4, " since", " all_tg_pt=1 since", "line 4: .*'all_tg_pt=1'"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_newer_word_is_refused_by_its_name(case: str) -> None:
    """A word that this version does not know would be lost with its next write, so the text is not taken at all."""
    number, old, new, said = UNKNOWN[case]
    with pytest.raises(NewerSchema, match=f"^pr_info {said}"):
        decode(with_line(number, old, new))


@pytest.mark.parametrize("text", [with_line(0, "0x00000001", "0x00000002"), b"0x2\n\xff", b"0x2"])
def test_a_newer_version_is_refused_by_its_number(text: bytes) -> None:
    """Whatever else a higher version may look like, its number is said."""
    with pytest.raises(NewerSchema, match="version 2; this node understands version 1"):
        decode(text)


def test_a_nexus_is_registered_once() -> None:
    """A second registration of the same nexus is refused by its line, also if it is written otherwise."""
    lines = EXAMPLE.split(b"\n")
    lines[8] = lines[7].replace(b" isid=none", b"").replace(b"0xa ", b"0x00A ").replace(b"abc1", b"9")
    with pytest.raises(DamagedTable, match=r"^pr_info is damaged: line 8: .*:01:a \(any session\).* registered twice"):
        decode(b"\n".join(lines))


def test_all_registrants_are_not_nobody() -> None:
    """A reservation that all registrants hold is refused by its line where nobody is registered."""
    text = with_line(5, "0x00000003", "0x00000000", with_line(4, "0x00000005", "0x00000007"))
    with pytest.raises(DamagedTable, match=r"^pr_info is damaged: line 4: write exclusive all registrants is held"):
        decode(b"\n".join(text.split(b"\n")[:6]) + b"\n\0")


FRAMES = {
    "nothing": (b"", "line 0: expected 0x"),
    "only the NUL": (b"\0", "line 0: expected 0x"),
    "no NUL": (EXAMPLE[:-1], "line 9: the text ends without a NUL: ''"),
    "cut within a line": (EXAMPLE[:30], "line 2: the text ends without a NUL: 'No SPC-2'"),
    "cut within a line, with a NUL": (EXAMPLE[:30] + b"\0", "line 2: expected a newline before the NUL: 'No SPC-2'"),
    "cut after a line, with a NUL": (EXAMPLE[:22] + b"\0", "line 2: expected a line, and the text ends"),
    "NUL in the middle": (
        with_line(3, "0x00000012", "0x0\x00000012"),
        r"line 3: the text goes on after a NUL: '000012",
    ),
    "two NULs": (EXAMPLE + b"\0", r"line 9: the text goes on after a NUL: '\\x00'"),
    "something after the NUL": (EXAMPLE + b"\n", r"line 9: the text goes on after a NUL: '\\n'"),
    "an empty line at the end": (EXAMPLE[:-1] + b"\n\0", "line 5: 3 registrations are announced and 4 lines follow"),
    "too long": (EXAMPLE[:-1] + b"x" * MAX_TEXT, r"line 0: the text has \d+ bytes, more than 524288: '0x.*\.\.\.'$"),
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_broken_frame_is_refused(case: str) -> None:
    """A text that is cut, goes on after its end, or is longer than any of ours, is refused."""
    text, said = FRAMES[case]
    with pytest.raises(DamagedTable, match=f"^pr_info is damaged: {said}") as refused:
        decode(text)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("holder", ["", "No SPC-2 Reservation holder", f"{A},i,0x0,{TARGET},t,0x1\n0x1", "\u00e4"])
def test_an_spc2_holder_that_is_no_nexus_is_not_written(holder: str) -> None:
    """What would be read back as something else is never written."""
    with pytest.raises(BadInput, match="is no nexus text of an SPC-2 holder"):
        encode(ReservationState(spc2_holder=holder))


def test_a_time_that_would_not_be_read_back_is_not_written() -> None:
    """The longest number of seconds that is written is the longest that is read."""
    crowded = ReservationState(registrations=crowd(1))
    assert decode(encode(crowded)) == crowded
    with pytest.raises(BadInput, match="more than 19 digits"):
        encode(replace(crowded, registrations=(replace(crowded.registrations[0], since=10**19),)))


def decode_or_refuse(text: bytes) -> None:
    """Read the text, or have it refused as it may be; what was read comes back from its own text."""
    try:
        state = decode(text)
    except (DamagedTable, NewerSchema) as refused:
        said = str(refused)
    else:
        said = ""
        assert decode(encode(state)) == state
    assert said.isprintable()
    assert len(said) < 2000


@quick
@given(st.binary(max_size=200), st.integers(0, len(EXAMPLE)))
def test_any_bytes_are_read_or_refused(junk: bytes, at: int) -> None:
    """Bytes of no meaning, alone or within a text, raise nothing but what a caller knows."""
    decode_or_refuse(junk)
    decode_or_refuse(EXAMPLE[:at] + junk + EXAMPLE[at:])


@settings(max_examples=150)
@given(st.one_of(st.sampled_from([EXAMPLE, FOREIGN]), states(most=3).map(encode)), st.data())
def test_a_damaged_text_is_read_or_refused(text: bytes, data: st.DataObject) -> None:
    """After flipped bits, changed bytes, cuts and swapped lines a text is refused, or means something that lasts."""
    damaged = bytearray(text)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["flip", "change", "cut", "swap"])):
            case "flip":
                damaged[at] ^= 1 << data.draw(st.integers(0, 7))
            case "change":
                damaged[at] = data.draw(st.sampled_from(b"0123456789abcdefxX,=_ \n\0"))
            case "cut":
                del damaged[at : at + data.draw(st.integers(1, 20))]
                damaged = damaged or bytearray(b"\0")
            case _:
                lines = damaged.split(b"\n")
                one, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
                lines[one], lines[other] = lines[other], lines[one]
                damaged = bytearray(b"\n".join(lines))
    decode_or_refuse(bytes(damaged))
