"""SCSI commands to one device of this node through SG_IO (Linux: uapi scsi/sg.h, drivers/scsi/sg.c), and the one
reading that is made of them: the kernel's whole table of registrations.

A command blocks its thread until it is answered or the kernel has given it up; nothing here has a clock of its own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import math
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from gateway.errors import BadInput, Inconsistent, KernelRefused, Refused, Stuck
from gateway.reservations.scsi import (
    ALLOCATION_LENGTH,
    FullStatus,
    parse_full_status,
    parse_keys,
    read_full_status_cdb,
    read_keys_cdb,
)

SG_IO = 0x2285
SG_SET_RESERVED_SIZE = 0x2275

UNIT_ATTENTIONS = 5
"""How often a command is sent anew because the device had news for this nexus instead of an answer."""

TABLE_TRIES = 5
"""How often the table is read until two readings agree; a change between them needs a PR OUT in that very moment."""

_NO_DATA, _TO_DEVICE, _FROM_DEVICE = -1, -2, -3
_GOOD, _CHECK_CONDITION, _RESERVATION_CONFLICT = 0x00, 0x02, 0x18
_DID_TIME_OUT = 0x03
_DRIVER_TIMEOUT, _DRIVER_SENSE = 0x06, 0x08
_SENSE_LENGTH = 96
_UNIT_ATTENTION = 6
_SENSE_KEYS = (
    "no sense",
    "recovered error",
    "not ready",
    "medium error",
    "hardware error",
    "illegal request",
    "unit attention",
    "data protect",
    "blank check",
    "vendor specific",
    "copy aborted",
    "aborted command",
    "reserved",
    "volume overflow",
    "miscompare",
    "completed",
)


class ReservationConflict(Refused):
    """The device answered RESERVATION CONFLICT: another nexus's reservation, or a RESERVE(6), forbids the command."""


class SgIoHdr(ctypes.Structure):
    """struct sg_io_hdr, interface version 3 (uapi scsi/sg.h): 88 bytes on 64 bit."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


Ioctl = Callable[[int, int, SgIoHdr | ctypes.c_int], None]
"""ioctl(2): descriptor, request, and what its argument points to. Raises OSError."""


def _ioctl(descriptor: int, request: int, argument: SgIoHdr | ctypes.c_int) -> None:
    fcntl.ioctl(descriptor, request, argument)


@dataclass(frozen=True)
class Sense:
    """Why a device did not do a command: sense key, additional sense code and its qualifier (SPC-4 clause 4.5)."""

    key: int
    asc: int
    ascq: int

    def __str__(self) -> str:
        return f"{_SENSE_KEYS[self.key]} (key {self.key:#x}, ASC {self.asc:#04x}, ASCQ {self.ascq:#04x})"


def parse_sense(data: bytes) -> Sense | None:
    """Sense data in the fixed (70h, 71h) or the descriptor format (72h, 73h); None if it is neither or too short."""
    code = data[0] & 0x7F if data else 0
    if code in (0x70, 0x71) and len(data) >= 14:
        return Sense(data[2] & 0x0F, data[12], data[13])
    if code in (0x72, 0x73) and len(data) >= 4:
        return Sense(data[1] & 0x0F, data[2], data[3])
    return None


@dataclass(frozen=True)
class _Answer:
    """What came back for one command: SAM's status, the host adapter's and the driver's, sense data, and data."""

    status: int
    host: int
    driver: int
    sense: Sense | None
    data: bytes

    @property
    def delivered(self) -> bool:
        """Whether it is the device's own answer. DRIVER_SENSE says only that there are sense data."""
        return self.host == 0 and self.driver & 0x0F in (0, _DRIVER_SENSE)

    @property
    def timed_out(self) -> bool:
        """Whether the kernel gave the command up after its time."""
        return self.host == _DID_TIME_OUT or self.driver & 0x0F == _DRIVER_TIMEOUT

    @property
    def unit_attention(self) -> bool:
        """Whether the device told its news instead of doing the command, which it then has not begun."""
        if not self.delivered or self.status != _CHECK_CONDITION or self.sense is None:
            return False
        return self.sense.key == _UNIT_ATTENTION


class ScsiDevice:
    """One /dev/sgN, open inside the `with` block. Its commands may come from any one thread at a time."""

    def __init__(self, path: str, ioctl: Ioctl = _ioctl) -> None:
        self._path = path
        self._ioctl = ioctl
        self._descriptor: int | None = None

    def __enter__(self) -> ScsiDevice:
        try:
            # Without O_NONBLOCK the open waits for as long as the host is in error recovery.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise self._refused("cannot open", error) from None
        try:
            self._keep_no_buffer()
        except KernelRefused:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _keep_no_buffer(self) -> None:
        """Have the kernel take a fresh, zeroed buffer for every transfer of more than one page.

        LIO skips fields of READ FULL STATUS that it has nothing to say in, and clears only the first element of the
        buffer for it (target_submit): one page, through tcm_loop. sg.c takes its reserved buffer, with the last
        answer still in it, for all that fits; larger ones it allocates anew with __GFP_ZERO. So an old holder's mark
        could show in a later answer; the smallest reserved buffer is one page. (SG_DXFER_TO_FROM_DEV would clear it
        too, and does not work from 6.1.80 on.)
        """
        assert self._descriptor is not None
        try:
            self._ioctl(self._descriptor, SG_SET_RESERVED_SIZE, ctypes.c_int(mmap.PAGESIZE))
        except OSError as error:
            raise self._refused("cannot set the buffer of", error) from None

    def command(self, cdb: bytes, *, data_out: bytes = b"", length_in: int = 0, timeout: float) -> bytes:
        """The data that a command reads: at most `length_in` bytes, without those that the device did not send.

        `timeout` is in seconds and bounds each sending; after a unit attention the command is sent anew, five times
        at most. Raises ReservationConflict, KernelRefused (the device's or the host's "no", with the reason) or Stuck
        (given up: it may still have been done).
        """
        if not 1 <= len(cdb) <= 16:
            raise BadInput(f"a command of {len(cdb)} bytes: SG_IO takes 1 to 16")
        if data_out and length_in:
            raise BadInput("a command moves data in one direction")
        if not timeout > 0:
            raise BadInput(f"a command's time of {timeout} s is not above 0")
        for _ in range(1 + UNIT_ATTENTIONS):
            answer = self._send(cdb, data_out, length_in, timeout)
            if not answer.unit_attention:
                break
        self._check(cdb, answer, timeout)
        return answer.data

    def _send(self, cdb: bytes, data_out: bytes, length_in: int, timeout: float) -> _Answer:
        assert self._descriptor is not None, "the device is used outside its `with` block"
        command = ctypes.create_string_buffer(cdb, len(cdb))
        sense = ctypes.create_string_buffer(_SENSE_LENGTH)
        length = len(data_out) or length_in
        data = (
            ctypes.create_string_buffer(data_out, length) if data_out else ctypes.create_string_buffer(max(length, 1))
        )
        header = SgIoHdr(
            interface_id=ord("S"),
            dxfer_direction=_TO_DEVICE if data_out else _FROM_DEVICE if length_in else _NO_DATA,
            cmd_len=len(cdb),
            mx_sb_len=_SENSE_LENGTH,
            dxfer_len=length,
            dxferp=ctypes.addressof(data) if length else None,
            cmdp=ctypes.addressof(command),
            sbp=ctypes.addressof(sense),
            timeout=math.ceil(timeout * 1000),  # milliseconds
        )
        try:
            self._ioctl(self._descriptor, SG_IO, header)
        except OSError as error:
            if error.errno == errno.EINTR:
                raise Stuck(f"{self._path}: command {cdb.hex()} was interrupted; it may still be done") from None
            raise self._refused(f"cannot send {cdb.hex()} to", error) from None
        received = max(0, min(length_in, length_in - header.resid))
        return _Answer(
            status=header.status,
            host=header.host_status,
            driver=header.driver_status,
            sense=parse_sense(sense.raw[: header.sb_len_wr]),
            data=data.raw[:received],
        )

    def _check(self, cdb: bytes, answer: _Answer, timeout: float) -> None:
        """Raise what the answer means unless the command was done."""
        what = f"{self._path}: command {cdb.hex()}"
        if answer.timed_out:
            raise Stuck(f"{what} was not answered within {timeout} s; it may still be done")
        if not answer.delivered:
            raise KernelRefused(f"{what} did not reach the device: host {answer.host:#x}, driver {answer.driver:#x}")
        if answer.status == _RESERVATION_CONFLICT:
            raise ReservationConflict(f"{what} was answered RESERVATION CONFLICT")
        if answer.status == _CHECK_CONDITION:
            raise KernelRefused(f"{what} was refused: {answer.sense or 'CHECK CONDITION without sense data'}")
        if answer.status != _GOOD:
            raise KernelRefused(f"{what} was answered with SCSI status {answer.status:#04x}")

    def _refused(self, act: str, error: OSError) -> KernelRefused:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        return KernelRefused(f"{act} {self._path}: {error.strerror} ({name})")


def read_table(device: ScsiDevice, *, timeout: float) -> FullStatus:
    """The kernel's whole table of registrations: READ FULL STATUS, held against READ KEYS.

    Neither command alone shows that the list is whole (see `parse_full_status`). They must agree in PRGENERATION and
    in every key, in order: the generation alone is not enough, because LIO does not raise it when a nexus unregisters,
    reserves or releases, and raises it before it lists a new registration. `timeout` is each command's, in seconds.

    Raises Inconsistent if they do not come to agree, and what `command` raises; ReservationConflict means that a
    RESERVE(6) is held, under which LIO refuses every PERSISTENT RESERVE IN.
    """
    for _ in range(TABLE_TRIES):
        status = parse_full_status(device.command(read_full_status_cdb(), length_in=ALLOCATION_LENGTH, timeout=timeout))
        generation, keys = parse_keys(device.command(read_keys_cdb(), length_in=ALLOCATION_LENGTH, timeout=timeout))
        if status.generation == generation and status.keys == keys and status.marks_agree:
            return status
    if status.generation == generation and len(status.keys) < len(keys) and keys[: len(status.keys)] == status.keys:
        raise Inconsistent(
            f"READ FULL STATUS is cut short: it lists {len(status.keys)} of {len(keys)} registrations, because the"
            f" kernel's answer has room for {ALLOCATION_LENGTH} bytes; unregister initiators that are not needed"
        )
    raise Inconsistent(
        f"the table of registrations changed during each of {TABLE_TRIES} readings: {len(status.keys)} registrations"
        f" at generation {status.generation}, then {len(keys)} at {generation}"
    )
