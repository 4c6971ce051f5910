"""PERSISTENT RESERVE IN and OUT as bytes: commands out, parameter data in. Pure.

Rule: whatever the bytes, a parse gives a value or raises `Inconsistent` with the offset of what it could not take.
Formats are SPC-4's, clauses numbered as in spc4r17, which LIO cites (in spc4r37 the TransportIDs are 7.6.4); what LIO
puts in is read in Linux 6.1's drivers/target/target_core_pr.c and target_core_fabric_lib.c.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from gateway.errors import BadInput, Inconsistent
from gateway.model import Iqn
from gateway.reservations.state import ReservationType

OVERRUN = 32
"""By how many bytes LIO's READ FULL STATUS may write past what was asked for (core_scsi3_pri_read_full_status, Linux
6.1): it holds the TransportID and the descriptors before it against the length, and forgets the header of 8 and the 24
bytes in front of the TransportID."""

ALLOCATION_LENGTH = 65536 - 2 * OVERRUN
"""What PERSISTENT RESERVE IN asks for, in bytes: as many whole pages as 16 bits can name, with room for the overrun in
the last one. At the end of a page it would hit what comes after: the kernel's own memory."""

PARAMETER_LENGTH = 24
"""The parameter list of PERSISTENT RESERVE OUT without TransportIDs, in bytes; LIO refuses every other length."""

ISCSI = 5
"""PROTOCOL IDENTIFIER of iSCSI (spc4r17 table 362); SAS, which `tcm_loop` shows by default, is 6 and FCP 0."""

_IN, _OUT = 0x5E, 0x5F
_HEADER = struct.Struct(">II")
_RESERVATION = struct.Struct(">Q4xxBxx")
_DESCRIPTOR = struct.Struct(">Q4xBB4xHI")
_TRANSPORT = struct.Struct(">BxH")
_SEPARATOR = b",i,0x"
_ISID = re.compile(rb"[0-9a-f]{12}")


class InAction(IntEnum):
    """PERSISTENT RESERVE IN's service actions (spc4r17 clause 6.13.1)."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    REPORT_CAPABILITIES = 2
    READ_FULL_STATUS = 3


class OutAction(IntEnum):
    """PERSISTENT RESERVE OUT's service actions that LIO knows (spc4r17 clause 6.14.2)."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE_EXISTING_KEY = 6
    REGISTER_AND_MOVE = 7


@dataclass(frozen=True)
class Descriptor:
    """One registration as READ FULL STATUS tells it.

    `type` is the reservation's, and None unless `holder`. `relative_port` is the target port's number on this device,
    and None for ALL_TG_PT: LIO leaves the field unwritten then. `initiator` is None if `protocol` is not iSCSI's;
    `isid` has 12 lower-case hex digits, or none if the TransportID names the whole initiator device.
    """

    key: int
    all_tg_pt: bool
    holder: bool
    type: ReservationType | None
    relative_port: int | None
    initiator: Iqn | None
    isid: str
    protocol: int = ISCSI


@dataclass(frozen=True)
class FullStatus:
    """The device's registrations in the order of the kernel's list, which is READ KEYS's order and the text's too."""

    generation: int
    descriptors: tuple[Descriptor, ...]

    @property
    def keys(self) -> tuple[int, ...]:
        """The keys, as READ KEYS lists them."""
        return tuple(each.key for each in self.descriptors)

    @property
    def holders(self) -> tuple[Descriptor, ...]:
        """The registrations marked as holders: every one for the types that all registrants hold, else one at most."""
        return tuple(each for each in self.descriptors if each.holder)

    @property
    def marks_agree(self) -> bool:
        """Whether the holders' marks are those of one reservation.

        LIO reads each registration's mark while it walks the list and lets go of its lock between two of them, so a
        RESERVE or PREEMPT in that moment leaves marks of before and after.
        """
        types = {each.type for each in self.holders}
        if not types:
            return True
        if len(types) > 1:
            return False
        (only,) = types
        return len(self.holders) == (len(self.descriptors) if only is not None and only.held_by_all else 1)


def read_keys_cdb() -> bytes:
    """The 10-byte command that asks for every registered key."""
    return _in_cdb(InAction.READ_KEYS)


def read_reservation_cdb() -> bytes:
    """The 10-byte command that asks who holds what."""
    return _in_cdb(InAction.READ_RESERVATION)


def read_full_status_cdb() -> bytes:
    """The 10-byte command that asks for every registration with its nexus."""
    return _in_cdb(InAction.READ_FULL_STATUS)


def _in_cdb(action: InAction) -> bytes:
    return struct.pack(">BB5xHx", _IN, action, ALLOCATION_LENGTH)


def reserve_out_cdb(action: OutAction, type: ReservationType | None, length: int) -> bytes:
    """The 10-byte PERSISTENT RESERVE OUT command, scope: the logical unit.

    `type` None is for the service actions that ignore it. `length` is the parameter list's, in bytes.
    """
    return struct.pack(">BBB2xIx", _OUT, action, type or 0, length)


def reserve_out_parameters(
    *, key: int, new_key: int, all_tg_pt: bool = False, aptpl: bool = False, spec_i_pt: bool = False
) -> bytes:
    """The 24 bytes of basic parameters (spc4r17 clause 6.14.3), for every service action but REGISTER AND MOVE.

    `key` is the nexus's own, `new_key` the SERVICE ACTION RESERVATION KEY. With `spec_i_pt` the TransportIDs and their
    length follow, which the caller appends. Raises BadInput for a key of more than 64 bits.
    """
    for what, number in (("key", key), ("new key", new_key)):
        if not 0 <= number < 1 << 64:
            raise BadInput(f"the {what} {number:#x} is not a number of 64 bits")
    return struct.pack(">QQ4xB3x", key, new_key, spec_i_pt << 3 | all_tg_pt << 2 | aptpl)


def parse_keys(data: bytes) -> tuple[int, tuple[int, ...]]:
    """READ KEYS: the generation, and every registered key in the order of registration (spc4r17 clause 6.13.2).

    LIO counts the keys that found no room in ADDITIONAL LENGTH too; such an answer is refused as short.
    """
    generation, end = _header(data)
    if (end - _HEADER.size) % 8:
        raise Inconsistent(f"READ KEYS, offset 4: {end - _HEADER.size} bytes are no whole number of keys")
    return generation, tuple(key for (key,) in struct.iter_unpack(">Q", data[_HEADER.size : end]))


def parse_reservation(data: bytes) -> tuple[int, int, ReservationType | None]:
    """READ RESERVATION: the generation, the holder's key and the type (spc4r17 clause 6.13.3.2).

    Without a reservation there is no type; for the types that all registrants hold the key is 0.
    """
    generation, end = _header(data)
    if end == _HEADER.size:
        return generation, 0, None
    if end != _HEADER.size + _RESERVATION.size:
        raise Inconsistent(f"READ RESERVATION, offset 4: {end - _HEADER.size} bytes are neither 0 nor 16")
    key, scope_and_type = _RESERVATION.unpack_from(data, _HEADER.size)
    return generation, key, _type(scope_and_type, 21)


def parse_full_status(data: bytes) -> FullStatus:
    """READ FULL STATUS: the generation and a descriptor per registration (spc4r17 clause 6.13.5).

    Bytes after ADDITIONAL LENGTH are no part of it. LIO stops without a word at the first registration that finds no
    room, or whose TransportID it cannot make, and counts only what it wrote: whether the list is whole cannot be seen
    here, only by comparing it with READ KEYS.
    """
    generation, end = _header(data)
    offset, descriptors = _HEADER.size, []
    while offset < end:
        descriptor, offset = _descriptor(data, offset, end)
        descriptors.append(descriptor)
    return FullStatus(generation, tuple(descriptors))


def _header(data: bytes) -> tuple[int, int]:
    """PRGENERATION, and the offset at which the parameter data end."""
    if len(data) < _HEADER.size:
        raise Inconsistent(f"persistent reservations, offset 0: {len(data)} bytes are no header of 8")
    generation, additional = _HEADER.unpack_from(data)
    if additional > len(data) - _HEADER.size:
        raise Inconsistent(
            f"persistent reservations, offset 4: {additional} bytes are announced and {len(data) - _HEADER.size} came"
        )
    return generation, _HEADER.size + additional


def _type(scope_and_type: int, offset: int) -> ReservationType:
    scope, code = scope_and_type >> 4, scope_and_type & 0x0F
    if scope:
        raise Inconsistent(f"persistent reservations, offset {offset}: scope {scope} is not the logical unit's, 0")
    try:
        return ReservationType(code)
    except ValueError:
        raise Inconsistent(f"persistent reservations, offset {offset}: {code:#x} is no type of a reservation") from None


def _descriptor(data: bytes, offset: int, end: int) -> tuple[Descriptor, int]:
    """One full status descriptor, and where the next one starts."""
    if end - offset < _DESCRIPTOR.size:
        raise Inconsistent(f"READ FULL STATUS, offset {offset}: {end - offset} bytes are no descriptor of 24")
    key, flags, scope_and_type, port, length = _DESCRIPTOR.unpack_from(data, offset)
    start = offset + _DESCRIPTOR.size
    if length > end - start:
        raise Inconsistent(
            f"READ FULL STATUS, offset {offset + 20}: {length} bytes are announced and {end - start} are left"
        )
    # LIO writes the flags with the type for the holder only (for every registration if all registrants hold) and the
    # port only without ALL_TG_PT; what it skips is not cleared here but by the owner of the buffer: see sg.py.
    all_tg_pt, holder = bool(flags & 0x02), bool(flags & 0x01)
    protocol, initiator, isid = _transport_id(data[start : start + length], start)
    descriptor = Descriptor(
        key=key,
        all_tg_pt=all_tg_pt,
        holder=holder,
        type=_type(scope_and_type, offset + 13) if holder else None,
        relative_port=None if all_tg_pt else port,
        initiator=initiator,
        isid=isid,
        protocol=protocol,
    )
    return descriptor, start + length


def _transport_id(data: bytes, offset: int) -> tuple[int, Iqn | None, str]:
    """The protocol, the initiator's name and the ISID of a TransportID (spc4r37 clause 7.6.4.6).

    The standard says that an iSCSI TransportID has at least 24 bytes, but LIO pads a short name to four bytes only.
    """
    if len(data) < _TRANSPORT.size:
        raise Inconsistent(f"READ FULL STATUS, offset {offset}: {len(data)} bytes are no TransportID")
    first, additional = _TRANSPORT.unpack_from(data)
    protocol, code = first & 0x0F, first >> 6
    if protocol != ISCSI:
        return protocol, None, ""
    if additional > len(data) - _TRANSPORT.size:
        raise Inconsistent(
            f"READ FULL STATUS, offset {offset + 2}: a TransportID of {additional} bytes in {len(data)} is too long"
        )
    if code > 1:
        raise Inconsistent(f"READ FULL STATUS, offset {offset}: format code {code:02b}b is no iSCSI TransportID's")
    text, terminator, _ = data[_TRANSPORT.size : _TRANSPORT.size + additional].partition(b"\0")
    if not terminator:
        raise Inconsistent(f"READ FULL STATUS, offset {offset + 4}: the iSCSI name has no end")
    initiator, isid = _port(text, offset + 4) if code else (text, b"")
    try:
        return protocol, Iqn(initiator.decode("ascii")), isid.decode("ascii")
    except (UnicodeDecodeError, BadInput) as error:
        raise Inconsistent(f"READ FULL STATUS, offset {offset + 4}: {error}") from None


def _port(text: bytes, offset: int) -> tuple[bytes, bytes]:
    """The name and the ISID of an initiator port's text, `<name>,i,0x<isid>`: there is one NUL, after the ISID.

    Kernels before 5.9 put another NUL after the name and half of the ISID; that is refused.
    """
    name, separator, isid = text.partition(_SEPARATOR)
    if not separator:
        raise Inconsistent(f"READ FULL STATUS, offset {offset}: no ',i,0x' in the initiator port {text!r}")
    if not _ISID.fullmatch(isid):
        raise Inconsistent(f"READ FULL STATUS, offset {offset}: ISID {isid!r} is not 12 lower-case hex digits")
    return name, isid
