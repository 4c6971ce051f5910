"""Processes that outlive the command that started them, and are ended only by who they are.

A process is known by its pid *and* its start time (`/proc/<pid>/stat`, field 22): a pid that was given to
somebody else in the meantime is never signalled. Each process leads its own group, which is what a signal goes
to, so its helpers go with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


def start_time(pid: int) -> int | None:
    """The start time of a live process in clock ticks since boot; None if it is gone, to its last thread."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # While other threads of a zombie still end, its sockets are open, and its ports taken. Field 20: their number.
    return None if fields[0] == "Z" and int(fields[17]) <= 1 else int(fields[19])


@dataclass(frozen=True)
class Process:
    """A background process whose identity is kept in a file, so that any later command can find it."""

    pidfile: Path

    def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the command in its own session with its output appended to `log`; refuses a second one."""
        if self.alive():
            raise RuntimeError(f"{self.pidfile.stem} is running already (pid {self._identity()[0]})")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=cwd,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        born = start_time(child.pid)
        child.returncode = 0  # it outlives us on purpose: this keeps Popen from warning about that
        temporary = self.pidfile.with_suffix(".new")
        temporary.write_text(json.dumps([child.pid, born]))
        temporary.rename(self.pidfile)

    def alive(self) -> bool:
        """Whether the very process that was started still runs (stopped by a signal counts as running)."""
        pid, born = self._identity()
        return pid != 0 and born is not None and start_time(pid) == born

    @property
    def pid(self) -> int | None:
        """The pid while the process is alive."""
        return self._identity()[0] if self.alive() else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process's whole group; nothing happens if it is gone."""
        if self.alive():
            os.killpg(self._identity()[0], number)

    def end(self, *, grace: float = 0.0) -> None:
        """End the process and its group: TERM and up to `grace` seconds, then KILL; then forget it."""
        pid, _ = self._identity()
        if grace > 0:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self._wait(grace)
        self.signal(signal.SIGKILL)
        self._wait(10.0)
        if self.alive():
            raise RuntimeError(f"{self.pidfile.stem} (pid {pid}) did not die within 10 s of SIGKILL")
        self.pidfile.unlink(missing_ok=True)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.alive() and time.monotonic() < deadline:
            pid, _ = self._identity()
            with suppress(ChildProcessError):  # our own child stays a zombie until it is waited for
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)

    def _identity(self) -> tuple[int, int | None]:
        try:
            pid, born = json.loads(self.pidfile.read_text())
        except (FileNotFoundError, ValueError):
            return 0, None
        return int(pid), born
