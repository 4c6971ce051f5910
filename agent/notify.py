"""Words to systemd (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET` names."""

from __future__ import annotations

import os
import socket


def notify(**words: str) -> None:
    """Send `KEY=value` lines, such as READY=1, STATUS=..., WATCHDOG=1; silent where no systemd listens."""
    name = os.environ.get("NOTIFY_SOCKET")
    if not name:
        return
    text = "\n".join(f"{key}={value}" for key, value in words.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(text.encode(), "\0" + name[1:] if name.startswith("@") else name)
        except OSError:
            return  # systemd is being re-executed: the next word reaches it
