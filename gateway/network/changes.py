"""A wake-up when a link or an address of the node changes (rtnetlink multicast groups, rtnetlink(7))."""

from __future__ import annotations

import errno
import select
import socket

from gateway.errors import KernelRefused

_LINK, _IPV4_ADDRESS, _IPV6_ADDRESS = 0x1, 0x10, 0x100
_PROTOCOL_ROUTE = 0


class Changes:
    """A subscription; what changed is not told, because a turn reads everything anew."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOL_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, _LINK | _IPV4_ADDRESS | _IPV6_ADDRESS))

    def fileno(self) -> int:
        """The descriptor that becomes readable with a change."""
        return self._socket.fileno()

    def wait(self, timeout: float) -> bool:
        """Whether something changed since the last call, or does within `timeout` seconds; all of it is taken."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(max(timeout, 0.0) * 1000):
            return False
        self._drain()
        return True

    def close(self) -> None:
        """End the subscription."""
        self._socket.close()

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drain(self) -> None:
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # ENOBUFS: more changes than the buffer holds, which is a change
                    raise KernelRefused(f"cannot read network changes: {error.strerror}") from None
