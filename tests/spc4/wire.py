"""The model's commands as bytes, and a real target's answers as the model's. Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from gateway.reservations import scsi
from gateway.reservations.scsi import OutAction
from gateway.reservations.state import ReservationType
from tests.spc4.model import (
    Access,
    Answer,
    Change,
    Clear,
    Command,
    Done,
    FullStatus,
    Keys,
    Preempt,
    PreemptAndAbort,
    Question,
    Refusal,
    Register,
    RegisterAndIgnore,
    Release,
    Reservation,
    Reserve,
    Row,
    Type,
)

BLOCK = 512
"""What READ and WRITE move, in bytes: the first block of a disk with blocks of that size."""

_GOOD, _CHECK_CONDITION, _RESERVATION_CONFLICT = 0x00, 0x02, 0x18


@dataclass(frozen=True)
class Request:
    """A command descriptor block, what goes out with it, and how many bytes may come in."""

    cdb: bytes
    out: bytes = b""
    length_in: int = 0


@dataclass(frozen=True)
class Unanswered:
    """Nobody knows whether it was done: the transport failed meanwhile. `why` is what the initiator's kernel says."""

    why: str

    def __str__(self) -> str:
        return f"unanswered ({self.why})"


@dataclass(frozen=True)
class Unexpected:
    """An answer that no command here should ever get."""

    what: str

    def __str__(self) -> str:
        return self.what


Reply: TypeAlias = Answer | Unanswered | Unexpected


_QUESTIONS = {
    Question.READ_KEYS: scsi.read_keys_cdb,
    Question.READ_RESERVATION: scsi.read_reservation_cdb,
    Question.READ_FULL_STATUS: scsi.read_full_status_cdb,
}
_ACCESSES = {
    Access.READ: Request(struct.pack(">BxIxHx", 0x28, 0, 1), length_in=BLOCK),  # READ (10) of block 0
    Access.WRITE: Request(struct.pack(">BxIxHx", 0x2A, 0, 1), out=bytes(BLOCK)),
}


def request_of(command: Command) -> Request:
    """The command's bytes."""
    if isinstance(command, Question):
        return Request(_QUESTIONS[command](), length_in=scsi.ALLOCATION_LENGTH)
    return _ACCESSES[command] if isinstance(command, Access) else _change(command)


def _change(command: Change) -> Request:
    match command:
        case Register(key, new_key, all_ports):
            return _out(OutAction.REGISTER, key=key, new_key=new_key, all_ports=all_ports)
        case RegisterAndIgnore(new_key, all_ports):
            return _out(OutAction.REGISTER_AND_IGNORE_EXISTING_KEY, new_key=new_key, all_ports=all_ports)
        case Reserve(key, type):
            return _out(OutAction.RESERVE, type, key=key)
        case Release(key, type):
            return _out(OutAction.RELEASE, type, key=key)
        case Clear(key):
            return _out(OutAction.CLEAR, key=key)
        case Preempt(key, victims, type):
            abort = isinstance(command, PreemptAndAbort)
            action = OutAction.PREEMPT_AND_ABORT if abort else OutAction.PREEMPT
            return _out(action, type, key=key, new_key=victims)


def _out(
    action: OutAction, type: Type | None = None, *, key: int = 0, new_key: int = 0, all_ports: bool = False
) -> Request:
    kind = ReservationType(type.value) if type else None
    parameters = scsi.reserve_out_parameters(key=key, new_key=new_key, all_tg_pt=all_ports)
    return Request(scsi.reserve_out_cdb(action, kind, scsi.PARAMETER_LENGTH), out=parameters)


def reply_of(command: Command, told: Mapping[str, Any], initiators: Mapping[str, str]) -> Reply:
    """What `initiator.py` told, as the model's answer; `initiators` has the model's name for each initiator's."""
    if "failed" in told:
        return Unanswered(told["failed"])
    if told["host"] or told["driver"]:
        return Unanswered(f"host {told['host']:#x}, driver {told['driver']:#x}")
    if told["status"] == _RESERVATION_CONFLICT:
        return Refusal.RESERVATION_CONFLICT
    if told["status"] == _CHECK_CONDITION:
        sense = tuple(told["sense"] or ())
        return next((each for each in Refusal if each.value == sense), Unexpected(f"CHECK CONDITION {sense}"))
    if told["status"] != _GOOD:
        return Unexpected(f"status {told['status']:#x}")
    return Done(_data(command, bytes.fromhex(told["data"]), initiators))


def _data(command: Command, data: bytes, initiators: Mapping[str, str]) -> Keys | Reservation | FullStatus | None:
    match command:
        case Question.READ_KEYS:
            generation, keys = scsi.parse_keys(data)
            return Keys(generation, tuple(sorted(keys)))
        case Question.READ_RESERVATION:
            generation, key, type = scsi.parse_reservation(data)
            return Reservation(generation, key, Type(type.value) if type else None)
        case Question.READ_FULL_STATUS:
            status = scsi.parse_full_status(data)
            return FullStatus(status.generation, tuple(sorted(_row(each, initiators) for each in status.descriptors)))
    return None


def _row(descriptor: scsi.Descriptor, initiators: Mapping[str, str]) -> Row:
    """The relative port is the portal group's tag: that is how rbdgate and these tests link a device."""
    name = str(descriptor.initiator)
    return Row(
        initiators.get(name, name),
        descriptor.relative_port or 0,
        descriptor.key,
        descriptor.all_tg_pt,
        descriptor.type.value if descriptor.type else 0,
    )
