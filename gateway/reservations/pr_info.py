"""The text of an image's reservations under `pr_info` on its header object: bytes to state and back. Pure.

Version 1 of what SUSE's and PetaSAN's kernels keep there (drivers/target/target_core_rbd.c), with further words at the
end of lines, where their readers have stopped: `isid=`, `all_tg_pt=1` and `since=`, in this order. A text without them
is another product's: it told only the first half of each ISID, or none (0x0, which is written anew with `isid=none`).

Rule: nothing is guessed and nothing dropped. What this version would not write again is refused, by line and value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from gateway.errors import BadInput, DamagedTable, NewerSchema
from gateway.model import Iqn
from gateway.reservations.state import MAX_REGISTRATIONS, Nexus, Registration, Reservation, ReservationState
from gateway.reservations.state import ReservationType as Type

VERSION = 1
MAX_TEXT = 512 * 1024
"""Bytes; more is refused unread. 512 registrations with the longest names and all words take 277 KiB."""

_NO_SPC2, _NO_SPC3 = "No SPC-2 Reservation holder", "No SPC-3 Reservation holder"
_HEAD = 6
"""How many lines come before the registrations."""
_SHOWN = 80
"""Characters of a bad value that an error shows."""

_PRINTABLE = re.compile(r"[ -~]*")
_NEXUS = re.compile(
    r"(?P<initiator>[!-+\--~]{0,223}),i,(?P<isid>0x[0-9a-fA-F]{1,16}),"
    r"(?P<target>[!-+\--~]{0,223}),t,(?P<tag>0x[0-9a-fA-F]{1,8})"
)
_FIRST_HALF = re.compile(r"([0-9a-f]{8})?")
_WORD = re.compile(r"([a-z_]+)=([!-~]+)")
_SINCE_DIGITS = 19
_VALUES = {
    "isid": re.compile(r"none|[0-9a-f]{12}"),
    "all_tg_pt": re.compile(r"1"),
    "since": re.compile(rf"[1-9][0-9]{{0,{_SINCE_DIGITS - 1}}}"),
}


def encode(state: ReservationState) -> bytes:
    """The canonical text; BadInput for what no text of version 1 can say."""
    if state.spc2_holder is not None and not _NEXUS.fullmatch(state.spc2_holder):
        raise BadInput(f"{_shown(state.spc2_holder)} is no nexus text of an SPC-2 holder")
    held = state.reservation
    lines = (
        f"0x{VERSION:08x}",
        f"0x{state.sequence:08x}",
        _NO_SPC2 if state.spc2_holder is None else state.spc2_holder,
        f"0x{state.generation:08x}",
        _NO_SPC3 if held is None else _written(held.key, held.holder, f"0x{held.type:08x}", since=held.since),
        f"0x{len(state.registrations):08x}",
        *(
            _written(each.key, each.nexus, all_tg_pt="1" if each.all_tg_pt else "", since=each.since)
            for each in state.registrations
        ),
    )
    return "".join(f"{line}\n" for line in lines).encode("ascii") + b"\0"


def decode(text: bytes) -> ReservationState:
    """The state that a text tells.

    Raises DamagedTable, naming the line from 0 and the value, and NewerSchema for a higher version or an unknown word.
    """
    lines = _lines(text)
    if len(lines) < _HEAD:
        raise _Line(len(lines), "").damaged("expected a line, and the text ends")
    _version, sequence, spc2, generation, spc3, count, *rest = lines
    written = sequence.number(sequence.text)
    spc2_holder = None if spc2.text == _NO_SPC2 else _nexus(spc2, spc2.text)[0]
    generated = generation.number(generation.text)
    reservation = None if spc3.text == _NO_SPC3 else _reservation(spc3)
    announced = count.number(count.text)
    if announced > MAX_REGISTRATIONS:
        raise count.damaged(f"{announced} registrations, and there is room for {MAX_REGISTRATIONS}")
    if announced != len(rest):
        raise count.damaged(f"{announced} registrations are announced and {len(rest)} lines follow")
    found: dict[Nexus, Registration] = {}
    for line in rest:
        registration = _registration(line)
        if registration.nexus in found:
            raise line.damaged(f"{registration.nexus} is registered twice")
        found[registration.nexus] = registration
    if reservation is not None and len(spc3.fields(3)) == 3:
        reservation = _with_registered_key(reservation, found)
    with spc3.checked():  # of what a state checks, only the holder is left
        return ReservationState(written, generated, tuple(found.values()), reservation, spc2_holder)


@dataclass(frozen=True)
class _Line:
    """A line with its number, by which every error names it."""

    at: int
    text: str

    def damaged(self, reason: str, value: str | None = None) -> DamagedTable:
        """The error for a value on this line, or for all of it."""
        bad = self.text if value is None else value
        return DamagedTable(f"pr_info is damaged: line {self.at}: {reason}: {_shown(bad)}")

    @contextmanager
    def checked(self) -> Iterator[None]:
        """What a value's constructor refuses is damage on this line."""
        try:
            yield
        except BadInput as error:
            raise DamagedTable(f"pr_info is damaged: line {self.at}: {error}") from None

    def number(self, value: str, digits: int = 8) -> int:
        """A number as the kernel's `0x%x` reads it, however padded and in either case."""
        if not re.fullmatch(rf"0x[0-9a-fA-F]{{1,{digits}}}", value):
            raise self.damaged(f"expected 0x and 1 to {digits} hex digits", value)
        return int(value, 16)

    def fields(self, least: int) -> list[str]:
        """What stands between single spaces."""
        fields = self.text.split(" ")
        if len(fields) < least or not all(fields):
            raise self.damaged(f"expected {least} fields or more, with one space between them")
        return fields


def _shown(value: str) -> str:
    return ascii(value if len(value) <= _SHOWN else f"{value[: _SHOWN - 3]}...")


def _lines(text: bytes) -> list[_Line]:
    """The lines of a whole text of this version."""
    if len(text) > MAX_TEXT:
        start = text[: _SHOWN + 1].decode("latin-1")
        raise _Line(0, start).damaged(f"the text has {len(text)} bytes, more than {MAX_TEXT}")
    body, nul, after = text.partition(b"\0")
    lines = [_Line(at, line.decode("latin-1")) for at, line in enumerate(body.split(b"\n"))]
    version = lines[0].number(lines[0].text)
    if version > VERSION:
        raise NewerSchema(f"pr_info has version {version}; this node understands version {VERSION}")
    if version < VERSION:
        raise lines[0].damaged(f"there is no version {version}")
    *whole, last = lines
    if not nul:
        raise last.damaged("the text ends without a NUL")
    if after:
        raise last.damaged("the text goes on after a NUL", after[: _SHOWN + 1].decode("latin-1"))
    if last.text:
        raise last.damaged("expected a newline before the NUL")
    for line in whole:
        if not _PRINTABLE.fullmatch(line.text):
            raise line.damaged("expected printable ASCII characters only")
    return whole


def _reservation(line: _Line) -> Reservation:
    key_text, nexus, code, *words = line.fields(3)
    key = line.number(key_text, 16)
    said = _words(line, words, "isid", "since")
    holder = _parsed(line, nexus, said.get("isid"))
    try:
        kind = Type(line.number(code))
    except ValueError:
        raise line.damaged("expected a type of SPC-4 table 244 and, above its 4 bits, scope 0", code) from None
    with line.checked():
        return Reservation(kind, holder, key, int(said.get("since", "0")))


def _with_registered_key(held: Reservation, registrations: Mapping[Nexus, Registration]) -> Reservation:
    """Another product's reservation with the key that its holder is registered with.

    SUSE's kernel writes line 4 when a reservation is made, and leaves it when the holder registers another key later.
    """
    holder = registrations.get(held.holder)
    return held if holder is None or held.type.held_by_all else replace(held, key=holder.key)


def _registration(line: _Line) -> Registration:
    key_text, nexus, *words = line.fields(2)
    key = line.number(key_text, 16)
    said = _words(line, words, "isid", "all_tg_pt", "since")
    registered = _parsed(line, nexus, said.get("isid"))
    with line.checked():
        return Registration(registered, key, "all_tg_pt" in said, int(said.get("since", "0")))


def _words(line: _Line, words: list[str], *names: str) -> dict[str, str]:
    """The further words of a line by their names, each of which may come once, in this order."""
    said: dict[str, str] = {}
    left = list(names)
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise line.damaged("expected NAME=VALUE", word)
        name, value = match.groups()
        if name not in names:
            raise NewerSchema(f"pr_info line {line.at}: this node does not know {_shown(word)} and would lose it")
        if name not in left:
            raise line.damaged("the word is there twice, or out of its order", word)
        if not _VALUES[name].fullmatch(value):
            raise line.damaged(f"this is no value of {name}", word)
        del left[: left.index(name) + 1]
        said[name] = value
    return said


def _nexus(line: _Line, text: str) -> re.Match[str]:
    match = _NEXUS.fullmatch(text)
    if match is None:
        raise line.damaged("expected INITIATOR,i,0xISID,TARGET,t,0xTAG", text)
    return match


def _parsed(line: _Line, text: str, isid: str | None) -> Nexus:
    """The nexus of a text and of the word `isid=`; without the word, the 8 digits that the text tells, or none."""
    match = _nexus(line, text)
    told = int(match["isid"], 16)
    if isid is None:
        isid = told.to_bytes(8).decode("latin-1") if told else ""
        if not _FIRST_HALF.fullmatch(isid):
            raise line.damaged("expected an ISID's first 8 hex digits as characters, or 0x0", match["isid"])
    elif isid == "none":
        isid = ""
    if _first_half(isid) != told:
        raise line.damaged(f"the ISID is not that of isid={isid or 'none'}", match["isid"])
    with line.checked():
        return Nexus(Iqn(match["initiator"]), isid, Iqn(match["target"]), int(match["tag"], 16))


def _first_half(isid: str) -> int:
    """An ISID as version 1 tells it: its first eight characters as a big-endian number, 0 for none."""
    return int.from_bytes(isid[:8].encode())


def _written(key: int, nexus: Nexus, code: str = "", *, all_tg_pt: str = "", since: int) -> str:
    """A registration, or with its type the reservation, as a line."""
    if since >= 10**_SINCE_DIGITS:
        raise BadInput(f"{nexus}: the second it was recorded at has more than {_SINCE_DIGITS} digits")
    text = f"{nexus.initiator},i,0x{_first_half(nexus.isid):x},{nexus.target},t,0x{nexus.tag:x}"
    isid = {0: "none", 8: ""}.get(len(nexus.isid), nexus.isid)
    words = {"isid": isid, "all_tg_pt": all_tg_pt, "since": str(since or "")}
    said = (f"{name}={value}" for name, value in words.items() if value)
    return " ".join((f"0x{key:016x}", text, *([code] if code else []), *said))


EMPTY = encode(ReservationState())
"""No reservations; the same bytes as gateway.images.sequence.EMPTY_PR_INFO."""
