"""Netlink requests and dumps over one socket (RFC 3549; uapi/linux/netlink.h).

Requests are pipelined: many are sent before their acknowledgements are read. A socket belongs to one call: open it,
use it, close it. Every receive has a deadline, though the kernel answers in the caller's own time.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.errors import KernelRefused, Stuck

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4

_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
CREATE_NEW = 0x400 | 0x200
"""NLM_F_CREATE and NLM_F_EXCL: create, and say EEXIST if it is there."""

_ERROR, _DONE = 2, 3
_DUMP_INTERRUPTED = 0x10
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BATCH = 128
"""Requests sent before their answers are read: their answers fit the socket's default receive buffer."""
_TIMEOUT = 5.0


@dataclass(frozen=True)
class Request:
    """One message to the kernel: its type, extra flags, and its body with attributes."""

    kind: int
    body: bytes
    flags: int = 0


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in a message's tail by their type; flag bits of the type are dropped."""
    found = {}
    while len(data) >= 4:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not 4 <= length <= len(data):
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


class Netlink:
    """A netlink socket of one protocol, usable in a `with` statement."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(_TIMEOUT)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def apply(self, requests: Sequence[Request]) -> tuple[int, ...]:
        """Send all requests; for each, in order, the errno the kernel answered (0: done)."""
        answers: list[int] = []
        for start in range(0, len(requests), _BATCH):
            answers += self._apply_batch(requests[start : start + _BATCH])
        return tuple(answers)

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """Send one question; the errno of the answer (0: answered) and the answer's body."""
        self._send(self._pack(kind, _REQUEST, body))
        while True:
            for answer, _, sequence, content in self._receive():
                if sequence == self._sequence and answer == _ERROR:
                    return -int(struct.unpack_from("=i", content)[0]), b""
                if sequence == self._sequence:
                    return 0, content

    def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """All messages the kernel lists for a dump request, as (type, body); taken anew if it changed meanwhile."""
        for _ in range(5):
            found, torn = self._dump_once(kind, body)
            if not torn:
                return found
        raise Stuck("the kernel's network tables changed during each of five attempts to list them; try again")

    def _apply_batch(self, requests: Sequence[Request]) -> list[int]:
        first = self._sequence + 1
        self._send(b"".join(self._pack(r.kind, _REQUEST | _ACK | r.flags, r.body) for r in requests))
        answers: dict[int, int] = {}
        while len(answers) < len(requests):
            for kind, _, sequence, body in self._receive():
                if kind == _ERROR and sequence >= first:
                    answers[sequence] = -int(struct.unpack_from("=i", body)[0])
        return [answers[first + index] for index in range(len(requests))]

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[tuple[int, bytes]], bool]:
        self._send(self._pack(kind, _REQUEST | _DUMP, body))
        found: list[tuple[int, bytes]] = []
        torn = False
        while True:
            for answer, flags, sequence, content in self._receive():
                if sequence != self._sequence:
                    continue
                torn = torn or bool(flags & _DUMP_INTERRUPTED)
                code = -int(struct.unpack_from("=i", content)[0]) if answer in (_ERROR, _DONE) and content else 0
                if code:
                    raise KernelRefused(f"cannot list the kernel's network tables: {os.strerror(code)}")
                if answer in (_ERROR, _DONE):
                    return found, torn
                found.append((answer, content))

    def _pack(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body + bytes(-len(body) % 4)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, (0, 0))
        except TimeoutError:
            raise Stuck(f"the kernel took no netlink request within {_TIMEOUT:g} s") from None
        except OSError as error:
            raise KernelRefused(f"cannot send a netlink request: {error.strerror}") from None

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise Stuck(f"the kernel did not answer a netlink request within {_TIMEOUT:g} s") from None
        except OSError as error:
            raise KernelRefused(f"cannot read a netlink answer: {error.strerror}") from None
        while len(data) >= _HEADER.size:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
            yield kind, flags, sequence, data[_HEADER.size : length]
            data = data[(length + 3) & ~3 :]


def expect(answers: Sequence[int], subjects: Sequence[str], act: str, *, fine: int) -> None:
    """Raise KernelRefused for the first answer that is neither 0 nor `fine`, and say how many others there are."""
    bad = [(code, subject) for code, subject in zip(answers, subjects, strict=True) if code not in (0, fine)]
    if bad:
        code, subject = bad[0]
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        name = errno.errorcode.get(code, str(code))
        hint = "; run as root" if code == errno.EPERM else ""
        raise KernelRefused(f"cannot {act} {subject}: {os.strerror(code)} ({name}){more}{hint}")
