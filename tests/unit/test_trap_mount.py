"""The trap's mount: whenever changes may not have been caught, nothing stays on the air, and the agent is told."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import trapping
from agent.trap import Trap
from agent.trapping import TrapMount
from gateway.errors import Inconsistent, KernelRefused
from gateway.lio.exports import Export
from gateway.model import Address
from gateway.reservations.fuse import KIND
from tests.unit.test_trap import ONE

ADDRESS = ipaddress.ip_address("10.0.1.1")


class Stage:
    """A node with one export and a place to mount on: what was done is told in order."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acts: list[str] = []
        self.kinds: list[str] = []
        self.unknown, self.refused, self.gone = 0, 0, threading.Event()
        self.place = tmp_path / "pr"
        for name, act in {"mount": self._mount, "mounted": self._mounted, "unmount": self._unmount}.items():
            monkeypatch.setattr(trapping, name, act)
        monkeypatch.setattr(trapping, "FileTrap", lambda *_: self)
        self.requests = 0
        self.trap = Trap(self, self._record, hold=1.0)
        self.mount = TrapMount(
            self.trap,
            lambda: self.place,
            self._exports,
            self._compare,
            cut=lambda: self.acts.append("cut"),
            unguard=lambda: self.acts.append("unguarded"),
        )

    def serve(self) -> None:
        """The file system, until it is gone."""
        self.gone.wait()

    def find(self, serial: str) -> Export | None:
        """The export."""
        return ONE

    def portals(self, export: Export) -> frozenset[Address]:
        """Its portal."""
        return frozenset({ADDRESS})

    def silence(self, addresses: frozenset[Address]) -> None:
        """Take it off the air."""
        self.acts.append("silent")

    def condemn(self, uid: str, reason: str) -> None:
        """Mark it."""
        self.acts.append("marked")

    def _mount(self, place: Path) -> int:
        if self.refused:
            self.refused -= 1
            raise KernelRefused("cannot mount")
        self.acts.append("mounted")
        self.kinds.append(KIND)
        return os.open("/dev/null", os.O_RDONLY)

    def _mounted(self, place: Path) -> str | None:
        return self.kinds[-1] if self.kinds else None

    def _unmount(self, place: Path) -> None:
        self.kinds.pop()

    def _exports(self) -> Iterator[Export]:
        if self.unknown:
            self.unknown -= 1
            raise KernelRefused("configfs is busy")
        yield ONE

    def _compare(self, export: Export) -> bytes:
        self.acts.append("compared")
        return b"recorded"

    def _record(self, export: Export, text: bytes, known: bytes | None) -> bytes:
        self.acts.append(f"recorded after {(known or b'nothing').decode()}")
        return text


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A fresh one."""
    made = Stage(tmp_path, monkeypatch)
    yield made
    made.gone.set()


def raised(act: Callable[[], None]) -> str:
    """What it raises."""
    with pytest.raises((Inconsistent, KernelRefused)) as caught:
        act()
    return str(caught.value)


def test_a_new_guard_mounts_and_compares(stage: Stage) -> None:
    """With everything cut; afterwards it is settled, and a look changes nothing."""
    assert not stage.mount.settled
    stage.mount.open()
    stage.mount.look()
    assert stage.acts == ["cut", "mounted", "compared"]
    assert stage.mount.settled


def test_a_place_that_is_taken_leaves_nothing_on_the_air(stage: Stage) -> None:
    """What the former guard did not catch is condemned, once; when the place is free, the trap is mounted."""
    stage.kinds = ["tmpfs"]
    assert "of type tmpfs" in raised(stage.mount.open)
    off = ["cut", "unguarded", "cut", "silent", "marked", "silent"]
    assert (stage.acts, stage.mount.settled) == (off, True)
    assert "of type tmpfs" in raised(stage.mount.look)
    assert stage.acts == off
    stage.kinds.clear()
    stage.mount.look()
    stage.mount.look()
    assert (stage.acts, stage.mount.settled) == ([*off, "mounted"], True)


def test_exports_that_are_not_known_settle_nothing(stage: Stage) -> None:
    """Unknown is not absent: until the kernel tells them the guard gives no sign; then they are taken off the air."""
    stage.unknown = 3
    for act in (stage.mount.open, stage.mount.look):
        assert "busy" in raised(act)
        assert not stage.mount.settled
    stage.mount.look()
    assert stage.acts[-5:] == ["cut", "silent", "marked", "silent", "mounted"]
    assert stage.mount.settled


def test_a_mount_that_is_taken_away_costs_no_change(stage: Stage) -> None:
    """Without a sign and with all cut, the kernel's table is recorded before the image is condemned."""
    stage.mount.open()
    stage.acts.clear()
    stage.kinds.clear()
    stage.mount.look()
    salvaged = ["unguarded", "cut", "silent", "recorded after recorded", "marked", "silent", "mounted"]
    assert (stage.acts, stage.mount.settled) == (salvaged, True)


def test_a_mount_that_is_refused_once_is_made_at_the_next_look(stage: Stage) -> None:
    """And nobody else's descriptor is closed, whoever has the number by then."""
    stage.mount.open()
    stage.kinds.clear()
    stage.refused = 2
    assert "cannot mount" in raised(stage.mount.look)
    others = os.open("/dev/null", os.O_RDONLY)
    assert "cannot mount" in raised(stage.mount.look)
    os.fstat(others)
    os.close(others)
    stage.mount.look()
    assert stage.acts[-1] == "mounted"


def test_a_server_that_ended_counts_as_taken_away(stage: Stage) -> None:
    """As after an abort of the connection: the mount is there, and nobody answers."""
    stage.mount.open()
    stage.gone.set()
    stage.mount._server.join()  # type: ignore[union-attr]
    stage.gone.clear()
    stage.acts.clear()
    stage.mount.look()
    assert stage.acts[-1] == "mounted"
    assert "marked" in stage.acts
