"""Words to systemd: each is one line of one datagram, whatever it quotes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agent.notify import notify


def test_a_line_break_in_a_value_makes_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that has several lines is told in one; its second one is no order to systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify(STATUS="last turn failed: no etcd\nSTOPPING=1\r\nreally", WATCHDOG="1")
        assert systemd.recv(1000) == b"STATUS=last turn failed: no etcd STOPPING=1 really\nWATCHDOG=1"
