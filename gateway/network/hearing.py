"""Hearing what others say about who has which address, on all interfaces at once, those that come later included.

Two packet sockets that are bound to no interface: one for ARP, one for IPv6 with a filter in the kernel that lets
nothing through but neighbour discovery. They see what comes in, not what this node sends.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
from collections.abc import Iterator

from gateway.errors import KernelRefused
from gateway.network.packets import ADVERTISEMENT, ARP, IPV6, SOLICITATION, Assertion, assertion

_ATTACH_FILTER = 26
"""SO_ATTACH_FILTER (asm-generic/socket.h)."""
_AT_ONCE = 256
"""Frames read before what they say is told: a flood costs one telling for so many."""

_LOAD_BYTE, _IF_EQUAL, _RETURN = 0x30, 0x15, 0x06
"""BPF_LD|BPF_B|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K and BPF_RET|BPF_K (uapi/linux/filter.h)."""
_NEXT_HEADER, _ICMP_TYPE = 14 + 6, 14 + 40
_FILTER = (
    (_LOAD_BYTE, 0, 0, _NEXT_HEADER),
    (_IF_EQUAL, 0, 4, socket.IPPROTO_ICMPV6),
    (_LOAD_BYTE, 0, 0, _ICMP_TYPE),
    (_IF_EQUAL, 1, 0, SOLICITATION),
    (_IF_EQUAL, 0, 1, ADVERTISEMENT),
    (_RETURN, 0, 0, 0x40000),
    (_RETURN, 0, 0, 0),
)
"""Code, how far to jump if so and if not, operand: what is ICMPv6 of either type passes."""


class Hearing:
    """The two sockets; KernelRefused if they cannot be had."""

    def __init__(self) -> None:
        try:
            self._sockets = tuple(_socket(kind) for kind in (ARP, IPV6))
            _attach_filter(self._sockets[1])
        except OSError as error:
            raise KernelRefused(f"cannot listen to what neighbours say: {error.strerror}") from None

    def wait(self, timeout: float) -> frozenset[tuple[str, Assertion]]:
        """What was heard since the last call, or is within `timeout` seconds, each with its interface's name."""
        poll = select.poll()
        for wire in self._sockets:
            poll.register(wire, select.POLLIN)
        poll.poll(max(timeout, 0.0) * 1000)
        return frozenset(said for wire in self._sockets for said in _read(wire))

    def close(self) -> None:
        """Stop listening."""
        for wire in self._sockets:
            wire.close()

    def __enter__(self) -> Hearing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _socket(kind: int) -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(kind))
    wire.setblocking(False)
    return wire


def _attach_filter(wire: socket.socket) -> None:
    """Frames that came before the filter are in the queue still; whoever reads looks at each one anyway."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in _FILTER))
    wire.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(_FILTER), ctypes.addressof(code)))


def _read(wire: socket.socket) -> Iterator[tuple[str, Assertion]]:
    for _ in range(_AT_ONCE):
        try:
            frame, place = wire.recvfrom(2048)
        except BlockingIOError:
            return
        except OSError as error:
            raise KernelRefused(f"cannot hear what neighbours say: {error.strerror}") from None
        said = assertion(frame)
        if said is not None:
            yield place[0], said
