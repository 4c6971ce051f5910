"""The lab as one object: what `tests/lab/lab` does, for tests that want it from Python.

Everything a lab is lies in its directories, its namespace and its processes; an object only knows its name.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tests.lab import belonging, host, package, tree
from tests.lab.ceph import Osd
from tests.lab.etcd import Member
from tests.lab.layout import CABLING, STORAGE_1, STORAGE_2, LabError, LabUsage, Node, Places
from tests.lab.machine import Machine, State, state_of
from tests.lab.making import Making, ceph_of, etcd_of
from tests.lab.networks import Wires
from tests.lab.processes import Process
from tests.lab.shape import Shape, changing, read_shape
from tests.lab.ssh import Door


class NodeCommandFailed(LabError):
    """A command in a node ended with another status than 0; `done` has its status and output."""

    def __init__(self, node: str, command: str, done: subprocess.CompletedProcess[str]) -> None:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        super().__init__(f"{command[:300]} on {node} ended with {done.returncode}: {said}")
        self.done = done


def own_name(what: str) -> str:
    """A lab's name that another checkout's tests do not use, and the next run of this one's finds again."""
    return f"{what}-{zlib.crc32(str(Path(__file__).resolve().parents[2]).encode()):08x}"


class Lab:
    """One lab by its name; LabUsage for a bad one."""

    def __init__(self, name: str = "lab", say: Callable[[str], None] = lambda _: None) -> None:
        self.name = name
        self.places = Places(name)
        self.wires = Wires(self.places.netns)
        self._say = say

    # The whole.

    def up(self, gateways: int = 3, initiators: int = 1, *, bare: bool = False) -> None:
        """Make the lab and return when every node answers; with `bare`, without rbdgate on the gateways.

        LabError if it exists, wholly or in part, or if something does not come up: what is there stays for a look.
        """
        host.check()
        os.umask(0o022)
        shape = Shape(gateways, initiators, bare)
        shape.nodes()  # says at once if there are too many
        with changing(self.places), belonging.marked(self.name):
            self._refuse_second()
            Making(self.places, self._say).make(shape)

    def down(self) -> None:
        """End and remove all of the lab, whatever state it is in; nothing happens if there is none."""
        host.check()
        with changing(self.places):
            for pidfile in self.places.run.glob("*.pid"):
                Process(pidfile).end()
            belonging.end_all(self.name)
            self.wires.destroy()
            if self.places.data.exists():
                shutil.rmtree(self.places.data)
            shutil.rmtree(self.places.run)
        tree.forget_half_built()
        for parent in (self.places.run.parent, self.places.data.parent):
            with suppress(OSError):  # another lab is in it, or it was never made
                parent.rmdir()

    @property
    def shape(self) -> Shape:
        """What the lab was made of; LabUsage if there is no lab of this name."""
        return read_shape(self.places)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, gateways first."""
        return self.shape.nodes()

    def node(self, name: str) -> Node:
        """The node of that name; LabUsage if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabUsage(f"there is no node {name!r}: the lab has {', '.join(node.name for node in self.nodes)}")

    # Commands in a node.

    def exec(
        self, node: str, *command: str, input: str | None = None, timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a node; NodeCommandFailed for a status other than 0 (unless not `check`).

        The words reach the command as they are. LabError if it takes longer than `timeout` seconds: then it may
        still run in the node.
        """
        words = self._door(node).command(command)
        try:
            done = subprocess.run(
                words,
                input="" if input is None else input,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{shlex.join(command)[:300]} on {node} took longer than {timeout} s") from None
        if check and done.returncode:
            raise NodeCommandFailed(node, shlex.join(command), done)
        return done

    def exec_command(self, node: str, *command: str, timeout: float | None = None) -> list[str]:
        """The host's command line that runs that command in the node, for whoever keeps its pipes himself.

        With a time-out the node ends the command after so many seconds, with status 124, and the connection is one
        of its own: a shared one would keep the caller's pipes open after this command line was killed.
        """
        if timeout is None:
            return self._door(node).command(command)
        return self._door(node).command(["timeout", "-k", "1", str(timeout), *command], shared=False)

    def put(self, node: str, source: Path, place: str) -> None:
        """Copy a file into a node."""
        words = self._door(node).command(["sh", "-c", 'exec cat > "$0"', place])
        with source.open("rb") as content:
            done = subprocess.run(words, stdin=content, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise NodeCommandFailed(node, f"writing {place}", done)

    def logs(self, node: str) -> str:
        """What the node's kernel and services wrote on its console, over all its boots."""
        return self.places.console(self.node(node)).read_text(errors="replace")

    # The power switch.

    def crash(self, node: str) -> None:
        """Cut a node's power; nothing happens if it is off."""
        Door(self.node(node), self.places).close()
        self._machine(node).power_off()

    def boot(self, node: str) -> None:
        """Switch a node on and return when it answers; LabError if it is on."""
        with belonging.marked(self.name):
            Making(self.places, self._say).boot(self.node(node))

    def pause(self, node: str) -> None:
        """Freeze a node: it answers nothing, and its connections stay open; LabError if it is off."""
        self._machine(node).pause()

    def resume(self, node: str) -> None:
        """Let a frozen node go on; LabError if it is off."""
        self._machine(node).resume()

    def state(self, node: str) -> State:
        """Whether a node runs, is frozen or is off."""
        return self._machine(node).state

    # The wires.

    def cut(self, node: str, what: str) -> None:
        """Drop all packets, both ways, between a node and etcd, ceph, storage-1, storage-2 or all of them."""
        self.wires.cut(self.node(node), what)

    def heal(self, node: str) -> None:
        """Undo every cut of a node and plug its storage links in again, if it is running."""
        self.wires.heal(self.node(node))
        if self.state(node) is State.RUNNING:
            for network in (STORAGE_1, STORAGE_2):
                self.link(node, network.name, "up")

    def link(self, node: str, network: str, to: Literal["up", "down"]) -> None:
        """Take the carrier away from a node's storage interface, or give it back."""
        found = self.node(node).link(network).network
        if not found.bridged_inside:
            raise LabUsage(f"{network} has no carrier to lose: choose {STORAGE_1.name} or {STORAGE_2.name}")
        self.exec(node, "ip", "-n", CABLING, "link", "set", found.cable, to, timeout=20)

    # What the gateways live on.

    def osd(self, number: int) -> Osd:
        """An OSD by Ceph's number: 0 has the pool rbd, 1 has rbd2; ValueError for another."""
        return ceph_of(self.places).osd(number)

    def etcd(self, number: int) -> Member:
        """An etcd member, 1 to 3; ValueError for another."""
        return etcd_of(self.places).member(number)

    def backends(self) -> dict[str, State]:
        """What etcd's members and Ceph's daemons do now, by name."""
        ceph, etcd = ceph_of(self.places), etcd_of(self.places)
        processes = {member.name: member.process for member in etcd.members}
        processes["mon.a"] = ceph.mon
        processes |= {f"osd.{number}": ceph.osd(number).process for number in range(len(ceph.osd_addresses))}
        return {name: state_of(process) for name, process in processes.items()}

    # Another version of rbdgate.

    def wheel(self, version: str | None = None) -> Path:
        """Build the checkout's wheel, under another version if one is given; return its path on the host."""
        directory = self.places.data / "wheels" / (version or "own")
        directory.mkdir(parents=True, exist_ok=True)
        return package.build_wheel(Path(self.shape.tree), directory, version)

    def install(self, node: str, wheel: Path) -> None:
        """Install a wheel on a gateway over the one it has, as an operator would; nothing is restarted."""
        place = f"/root/{wheel.name}"
        self.put(node, wheel, place)
        pip = f"/{tree.VENV}/bin/pip"
        self.exec(node, pip, "install", "--no-deps", "--no-index", "--force-reinstall", place, timeout=180)

    def _machine(self, node: str) -> Machine:
        return Machine(self.node(node), self.places)

    def _door(self, node: str) -> Door:
        if self.state(node) is State.OFF:
            raise LabError(f"{node} is off: `boot {node}` switches it on")
        return Door(self.node(node), self.places)

    def _refuse_second(self) -> None:
        places = self.places
        if not (places.shape.exists() or self.wires.exists() or places.data.exists()):
            return
        ready = places.shape.exists() and self.shape.ready
        what = "is up already" if ready else "is there in part, for its making was interrupted"
        raise LabError(f"lab {self.name!r} {what}: `tests/lab/lab down --name {self.name}` removes it")
