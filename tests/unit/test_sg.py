"""Commands through SG_IO: the struct is the kernel's, every way to fail has its own error, and a table is whole."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadInput, Inconsistent, KernelRefused, RbdgateError, Refused, Stuck
from gateway.reservations.scsi import Descriptor, FullStatus
from gateway.reservations.sg import (
    SG_IO,
    SG_SET_RESERVED_SIZE,
    TABLE_TRIES,
    UNIT_ATTENTIONS,
    ReservationConflict,
    ScsiDevice,
    Sense,
    SgIoHdr,
    parse_sense,
    read_table,
)
from tests.unit.test_reservation_scsi import ALL, PEER, PORT, full_status

CDB = bytes.fromhex("5e000000000000ffff00")
FIXED = bytes.fromhex("70 00 05 00000000 0a 00000000 24 00 00 000000")
ATTENTION = bytes.fromhex("72 06 2a 03 00000000")


@dataclass(frozen=True)
class Reply:
    """What the fake kernel answers to one command."""

    data: bytes = b""
    status: int = 0
    host: int = 0
    driver: int = 0
    sense: bytes = b""


@dataclass
class FakeKernel:
    """An ioctl that plays replies, one a command, and keeps what it was given."""

    replies: Iterator[Reply]
    headers: list[SgIoHdr] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    reserved: int = 0

    def __call__(self, descriptor: int, request: int, argument: SgIoHdr | ctypes.c_int) -> None:
        """Answer like drivers/scsi/sg.c."""
        os.fstat(descriptor)
        if isinstance(argument, ctypes.c_int):
            assert request == SG_SET_RESERVED_SIZE
            self.reserved = argument.value
            return
        assert request == SG_IO
        self.headers.append(argument)
        self.commands.append(ctypes.string_at(argument.cmdp, argument.cmd_len))
        if argument.dxfer_direction == -2:
            self.sent.append(ctypes.string_at(argument.dxferp, argument.dxfer_len))
        reply = next(self.replies)
        if argument.dxfer_direction == -3:
            ctypes.memmove(argument.dxferp, reply.data, len(reply.data))
            argument.resid = argument.dxfer_len - len(reply.data)
        ctypes.memmove(argument.sbp, reply.sense, len(reply.sense))
        argument.sb_len_wr = len(reply.sense)
        argument.status, argument.host_status, argument.driver_status = reply.status, reply.host, reply.driver


def ask(*replies: Reply) -> tuple[bytes, FakeKernel]:
    """What a command for 512 bytes gives when the kernel answers so."""
    kernel = FakeKernel(iter(replies))
    with ScsiDevice("/dev/null", kernel) as device:
        return device.command(CDB, length_in=512, timeout=2.0), kernel


def test_the_struct_is_the_kernels() -> None:
    """struct sg_io_hdr has 88 bytes on 64 bit, and its fields are where the kernel looks for them."""
    assert ctypes.sizeof(SgIoHdr) == 88
    offsets = {name: getattr(SgIoHdr, name).offset for name, _ in SgIoHdr._fields_}
    assert offsets == {
        "interface_id": 0,
        "dxfer_direction": 4,
        "cmd_len": 8,
        "mx_sb_len": 9,
        "iovec_count": 10,
        "dxfer_len": 12,
        "dxferp": 16,
        "cmdp": 24,
        "sbp": 32,
        "timeout": 40,
        "flags": 44,
        "pack_id": 48,
        "usr_ptr": 56,
        "status": 64,
        "masked_status": 65,
        "msg_status": 66,
        "sb_len_wr": 67,
        "host_status": 68,
        "driver_status": 70,
        "resid": 72,
        "duration": 76,
        "info": 80,
    }


def test_a_read_gives_what_the_device_sent() -> None:
    """A command's data end where the residual says, its time is in milliseconds, and the buffer is one page at most."""
    data, kernel = ask(Reply(b"hello"))
    (header,) = kernel.headers
    assert data == b"hello"
    assert kernel.commands == [CDB]
    assert (header.interface_id, header.dxfer_direction, header.dxfer_len) == (ord("S"), -3, 512)
    assert header.timeout == 2000
    assert kernel.reserved == mmap.PAGESIZE


def test_a_write_sends_its_data() -> None:
    """Data out go out as they are and nothing comes back; a command without data names no buffer."""
    kernel = FakeKernel(iter((Reply(), Reply())))
    with ScsiDevice("/dev/null", kernel) as device:
        assert device.command(CDB, data_out=b"\0\1\0", timeout=0.0001) == b""
        assert device.command(bytes(6), timeout=1) == b""
    first, second = kernel.headers
    assert kernel.sent == [b"\0\1\0"]
    assert (first.dxfer_direction, first.dxfer_len, first.timeout) == (-2, 3, 1)
    assert (second.dxfer_direction, second.dxfer_len, second.dxferp) == (-1, 0, None)


def test_sense_data_are_read_in_both_formats() -> None:
    """Fixed and descriptor sense data give the same three numbers; what is neither gives none."""
    assert parse_sense(FIXED) == Sense(5, 0x24, 0)
    assert parse_sense(b"\xf1" + FIXED[1:]) == Sense(5, 0x24, 0)
    assert parse_sense(ATTENTION) == parse_sense(b"\x73" + ATTENTION[1:]) == Sense(6, 0x2A, 3)
    assert str(Sense(6, 0x2A, 3)) == "unit attention (key 0x6, ASC 0x2a, ASCQ 0x03)"
    for nothing in (b"", b"\x70", FIXED[:13], b"\x72\x06\x2a", b"\x7f" + bytes(17)):
        assert parse_sense(nothing) is None


@given(st.binary(max_size=24))
def test_any_sense_data_can_be_told(data: bytes) -> None:
    """Whatever a device sends as sense data, it is none or has words."""
    assert str(parse_sense(data))


def test_unit_attentions_are_retried() -> None:
    """A command is sent anew for each of five unit attentions, and then gives its data."""
    attention = Reply(status=2, driver=8, sense=ATTENTION)
    data, kernel = ask(*[attention] * UNIT_ATTENTIONS, Reply(b"ok"))
    assert (data, len(kernel.headers)) == (b"ok", 6)


def test_a_sixth_unit_attention_is_an_error() -> None:
    """A device that has nothing but news is refused with its last news."""
    with pytest.raises(KernelRefused, match=r"unit attention .*ASC 0x2a, ASCQ 0x03"):
        ask(*[Reply(status=2, driver=8, sense=ATTENTION)] * 6)


@pytest.mark.parametrize(
    ("reply", "kind", "why"),
    [
        (Reply(status=0x18), ReservationConflict, "RESERVATION CONFLICT"),
        (Reply(status=2, driver=8, sense=FIXED), KernelRefused, r"illegal request \(key 0x5, ASC 0x24, ASCQ 0x00\)"),
        (Reply(status=2), KernelRefused, "CHECK CONDITION without sense data"),
        (Reply(status=8), KernelRefused, "SCSI status 0x08"),
        (Reply(host=3), Stuck, r"not answered within 2.0 s"),
        (Reply(driver=6), Stuck, "may still be done"),
        (Reply(host=1), KernelRefused, "did not reach the device: host 0x1"),
        (Reply(driver=4), KernelRefused, "driver 0x4"),
        (Reply(host=0xE, status=2, sense=ATTENTION), KernelRefused, "host 0xe"),
    ],
)
def test_each_failure_has_its_error(reply: Reply, kind: type[RbdgateError], why: str) -> None:
    """A conflict, a refusal, a time-out and a lost device are told apart, with the command named."""
    with pytest.raises(kind, match=why) as caught:
        ask(reply)
    assert type(caught.value) is kind
    assert CDB.hex() in str(caught.value)
    assert issubclass(ReservationConflict, Refused)


@pytest.mark.parametrize(("code", "kind"), [(errno.EINTR, Stuck), (errno.ENODEV, KernelRefused)])
def test_an_ioctl_that_fails_is_told(code: int, kind: type[RbdgateError]) -> None:
    """An interrupted command may still be done; any other errno is the kernel's refusal."""

    def fail(descriptor: int, request: int, argument: SgIoHdr | ctypes.c_int) -> None:
        if request == SG_IO:
            raise OSError(code, os.strerror(code))

    with ScsiDevice("/dev/null", fail) as device, pytest.raises(kind):
        device.command(CDB, timeout=1)


def test_what_is_no_sg_device_is_refused() -> None:
    """A path that is not there, and one that knows no such ioctl, are refused by name; nothing stays open."""
    before = os.listdir("/proc/self/fd")
    for path in ("/dev/no-such-sg", "/dev/null"):
        with pytest.raises(KernelRefused, match=path), ScsiDevice(path):
            pass
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("ask_for", "why"),
    [
        (lambda device: device.command(b"", timeout=1), "0 bytes"),
        (lambda device: device.command(bytes(17), timeout=1), "17 bytes"),
        (lambda device: device.command(CDB, timeout=0), "not above 0"),
        (lambda device: device.command(CDB, data_out=b"x", length_in=1, timeout=1), "one direction"),
    ],
)
def test_a_command_that_cannot_be_is_not_sent(ask_for: Callable[[ScsiDevice], bytes], why: str) -> None:
    """What SG_IO could not carry is refused before anything is sent."""
    kernel = FakeKernel(iter(()))
    with ScsiDevice("/dev/null", kernel) as device, pytest.raises(BadInput, match=why):
        ask_for(device)
    assert kernel.headers == []


TABLE = FullStatus(7, (PORT, PEER))


def keys(table: FullStatus) -> Reply:
    """READ KEYS of that table."""
    body = b"".join(key.to_bytes(8, "big") for key in table.keys)
    return Reply(table.generation.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body)


def status(table: FullStatus) -> Reply:
    """READ FULL STATUS of that table."""
    return Reply(full_status(table))


def read(*replies: Reply) -> tuple[FullStatus, list[int]]:
    """The table that is read from such answers, and the service actions that were asked."""
    kernel = FakeKernel(iter(replies))
    with ScsiDevice("/dev/null", kernel) as device:
        return read_table(device, timeout=1), [command[1] for command in kernel.commands]


def test_a_table_that_both_answers_tell_is_whole() -> None:
    """One READ FULL STATUS and one READ KEYS that agree are enough."""
    assert read(status(TABLE), keys(TABLE)) == (TABLE, [3, 0])


@pytest.mark.parametrize(
    "before",
    [
        FullStatus(6, TABLE.descriptors),
        FullStatus(7, (PORT,)),
        FullStatus(7, (*TABLE.descriptors, PEER)),
        FullStatus(7, (replace(PORT, key=1), PEER)),
    ],
)
def test_a_table_that_moved_is_read_again(before: FullStatus) -> None:
    """Another generation, another number of registrations or another key between the two means: read both again."""
    assert read(status(before), keys(TABLE), status(TABLE), keys(TABLE)) == (TABLE, [3, 0, 3, 0])


def test_marks_of_two_moments_are_read_again() -> None:
    """A table with two holders is of two moments, though both answers agree."""
    torn = FullStatus(7, (PORT, replace(PEER, holder=True, type=ALL)))
    assert read(status(torn), keys(torn), status(TABLE), keys(TABLE))[0] == TABLE


def test_a_table_cut_short_is_refused() -> None:
    """If READ FULL STATUS keeps listing fewer registrations than there are keys, the sentence says how many."""
    many = FullStatus(7, (*TABLE.descriptors, Descriptor(9, False, False, None, 2, PORT.initiator, "")))
    with pytest.raises(Inconsistent, match=r"cut short: it lists 2 of 3 registrations, .* room for 65472 bytes"):
        read(*(status(TABLE), keys(many)) * TABLE_TRIES)


def test_a_table_that_never_rests_is_refused() -> None:
    """If the generation moves between all readings, that is said, not taken for a table."""
    with pytest.raises(Inconsistent, match="2 registrations at generation 7, then 2 at 8"):
        read(*(status(TABLE), keys(replace(TABLE, generation=8))) * TABLE_TRIES)
