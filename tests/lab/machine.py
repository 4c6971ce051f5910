"""One node as a User-Mode Linux process: its disk, its power switch, and how it is frozen.

The node's file system is an overlay that is mounted in the process's own mount namespace: it goes when the process
goes, and what the node wrote stays in the upper layer, as on a disk.
"""

from __future__ import annotations

import enum
import hashlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import run
from tests.lab.layout import CACHE, LabError, Node, Places
from tests.lab.processes import Process

MEMORY = "512M"
STOP_BOUND = 5.0  # seconds; a process that waits for a disk stops when the disk has answered
# Arguments: lower layers, upper, work, mount point, network namespace, then the command.
_ON_OVERLAY = """
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3,redirect_dir=on" "$4"
netns=$5
shift 5
exec nsenter "--net=/run/netns/$netns" "$@"
"""


class State(enum.Enum):
    """What a process of the lab does now."""

    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"


def state_of(process: Process) -> State:
    """What a process does now: it is stopped by a signal, runs, or is gone."""
    pid = process.pid
    if pid is None:
        return State.OFF
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return State.OFF
    return State.PAUSED if letter == "T" else State.RUNNING


def wide_registers() -> Path:
    """The library without which the kernel dies on processors with AMX (`xstate.c` says why), compiled once."""
    source = Path(__file__).with_name("xstate.c")
    place = CACHE / f"xstate-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not place.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = place.with_suffix(f".{os.getpid()}-{threading.get_ident()}")  # nodes start at once, in threads
        run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(made), str(source)])
        made.rename(place)
    return place


def disk_of(home: Path) -> Path:
    """A node's block device besides its file system, if it has one: on hostfs whatever is made belongs to root, so what
    runs as somebody else cannot keep its files there."""
    return home / "disk.img"


@dataclass(frozen=True)
class Machine:
    """A node's process, found by its pidfile."""

    node: Node
    places: Places

    @property
    def process(self) -> Process:
        """The User-Mode Linux process."""
        return Process(self.places.run / f"{self.node.name}.pid")

    @property
    def state(self) -> State:
        """Whether the node runs, is frozen or is off."""
        return state_of(self.process)

    def power_on(self, layers: list[Path]) -> None:
        """Start the node on its own disk over those layers, topmost first; LabError if it runs."""
        if self.process.alive():
            raise LabError(f"{self.node.name} runs already")
        home = self.places.home(self.node)
        for name in ("upper", "work", "root"):
            (home / name).mkdir(parents=True, exist_ok=True)
        words = [":".join(map(str, layers)), *(str(home / name) for name in ("upper", "work", "root"))]
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ON_OVERLAY, "sh"]
        self.process.start(
            [*apart, *words, self.places.netns, *self._kernel(home / "root")],
            log=self.places.console(self.node),
        )

    def power_off(self) -> None:
        """Pull the plug: the process and its helpers are killed; nothing happens if the node is off."""
        self.process.end()

    def pause(self) -> None:
        """Freeze the node. Only the kernel's own process is stopped: a traced user process that got SIGSTOP would be
        taken for a crash of the kernel, and without its tracer it runs no further than its next system call.
        """
        os.kill(self._pid(), signal.SIGSTOP)
        deadline = time.monotonic() + STOP_BOUND
        while self.state is State.RUNNING:  # the signal is sent, but the kernel has not acted on it yet
            if time.monotonic() > deadline:
                raise LabError(f"{self.node.name} was told to stop and still runs after {STOP_BOUND:.0f} s")
            time.sleep(0.001)

    def resume(self) -> None:
        """Let a frozen node go on."""
        os.kill(self._pid(), signal.SIGCONT)

    def _pid(self) -> int:
        pid = self.process.pid
        if pid is None:
            raise LabError(f"{self.node.name} is off")
        return pid

    def _kernel(self, root: Path) -> list[str]:
        """The kernel's command line.

        With `gro=1` a card has room for frames of 64 KiB. It needs it: the kernel tells the tap that it takes large
        frames in any case, and without the room every one of them is cut off, dropped and sent again.
        """
        disk = disk_of(self.places.home(self.node))
        cards = [
            f"vec{link.index}:transport=tap,ifname={link.tap},depth=64,gro=1,mac={link.mac}" for link in self.node.links
        ]
        return [
            "env",
            f"LD_PRELOAD={wide_registers()}",
            "linux.uml",
            f"mem={MEMORY}",
            "root=/dev/root",
            "rootfstype=hostfs",
            f"rootflags={root}",
            "rw",
            f"umid={self.node.name}",
            f"uml_dir={self.places.run / 'uml'}",
            *cards,
            *([f"ubd0={disk}"] if disk.exists() else []),
            "con=null",
            "con0=null,fd:1",
            "quiet",
            "selinux=0",
            "log_buf_len=1M",  # 16 KiB is what this kernel has otherwise: a few lost sessions, and the start is gone
        ]
