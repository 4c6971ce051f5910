"""Which processes on this machine belong to a lab: a mark in their environment that they inherit and cannot lose.

Pidfiles know what was started and recorded; a lab that was killed between the two, or a node whose main process was
killed, leaves processes that only the mark still names.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.layout import LabError

_MARK = "RBDGATE_LAB_THIS_PROCESS_BELONGS_TO"


@contextmanager
def marked(lab: str) -> Iterator[None]:
    """Whatever is started inside belongs to the lab."""
    before = os.environ.get(_MARK)
    os.environ[_MARK] = lab
    try:
        yield
    finally:
        del os.environ[_MARK]
        if before is not None:
            os.environ[_MARK] = before


def members(lab: str) -> list[int]:
    """The pids of all live processes that belong to the lab, but not our own."""
    line = f"{_MARK}={lab}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes()
        except OSError:
            continue  # it ended meanwhile
        pid = int(path.parent.name)
        if line in environment.split(b"\0") and pid != os.getpid():
            found.append(pid)
    return found


def end_all(lab: str, seconds: float = 20.0) -> None:
    """Kill every process that belongs to the lab; LabError if one is still there after `seconds`."""
    deadline = time.monotonic() + seconds
    while pids := members(lab):
        if time.monotonic() > deadline:
            raise LabError(f"processes {', '.join(map(str, pids))} of lab {lab!r} do not die")
        for pid in pids:
            kill(pid)
        time.sleep(0.02)


def kill(pid: int) -> None:
    """Kill one process; one that is gone is fine."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
