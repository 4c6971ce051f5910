"""Words to systemd (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET` names."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Mapping


def notify(**words: str) -> None:
    """Send `KEY=value` lines, such as READY=1, STATUS=..., WATCHDOG=1; silent where no systemd listens.

    A value is sent as one line, whatever it quotes: what follows a line break would be a word of its own.
    """
    name = os.environ.get("NOTIFY_SOCKET")
    if not name:
        return
    _send(name, words, [])


def notify_with_descriptor(name: str, descriptor: int) -> None:
    """Leave a descriptor with systemd, which gives it to the next process of this unit; silent where none listens."""
    listener = os.environ.get("NOTIFY_SOCKET")
    if listener:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        _send(listener, {"FDSTORE": "1", "FDNAME": name, "FDPOLL": "0"}, [rights])


def _send(listener: str, words: Mapping[str, str], ancillary: list[tuple[int, int, array.array[int]]]) -> None:
    text = "\n".join(f"{key}={' '.join(value.splitlines())}" for key, value in words.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendmsg([text.encode()], ancillary, 0, "\0" + listener[1:] if listener.startswith("@") else listener)
        except OSError:
            return  # systemd is being re-executed: the next word reaches it
