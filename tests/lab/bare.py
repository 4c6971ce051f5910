"""A bare lab for tests of single rooms: two gateways with the checkout's library, one initiator, no agent.

Used as a pytest plugin (`pytest_plugins`), so that the tests of several rooms share one lab.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import Lab, own_name

_NAME = own_name("rooms")
_LIBRARY = "/run/rbdgate-rooms"
_ROOT = Path(__file__).resolve().parents[2]

_PRELUDE = """
import ipaddress, json, os, subprocess, sys, threading, time
from gateway import lio, network
from gateway.access import Access
from gateway.credentials import Credentials, Secret
from gateway.model import *
from gateway.observed import *
from gateway.profile import access_differences, differences
A = ipaddress.ip_address

def say(value):
    print("SAID " + json.dumps(value), flush=True)

def took(act, *words):
    start = time.monotonic()
    act(*words)
    return time.monotonic() - start
"""


class Rooms:
    """The lab, and a way to run the library's code in its gateways."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def push(self, node: str) -> None:
        """Copy the checkout's library into a node; it is gone with the node's power."""
        with tempfile.NamedTemporaryFile(suffix=".tar") as packed:
            with tarfile.open(packed.name, "w") as tar:
                tar.add(_ROOT / "gateway", "gateway", filter=lambda m: None if "__pycache__" in m.name else m)
            self.lab.exec(node, "mkdir", "-p", _LIBRARY)
            self.lab.put(node, Path(packed.name), f"{_LIBRARY}/gateway.tar")
        self.lab.exec(node, "tar", "-C", _LIBRARY, "-xf", f"{_LIBRARY}/gateway.tar")

    def python(self, node: str, *parts: str, timeout: float = 60.0) -> list[Any]:
        """Run a script on the library in a node, each part indented as it likes; what it gave to `say`, in order."""
        words = ("env", f"PYTHONPATH={_LIBRARY}", "/opt/rbdgate/bin/python", "-")
        done = self.lab.exec(node, *words, input=self.script(*parts), timeout=timeout)
        return [json.loads(line.removeprefix("SAID ")) for line in done.stdout.splitlines() if line.startswith("SAID ")]

    @staticmethod
    def script(*parts: str) -> str:
        """A script on the library from parts, each indented as it likes."""
        return "\n".join(map(textwrap.dedent, (_PRELUDE, *parts)))

    def sh(self, node: str, script: str, *, check: bool = True, timeout: float = 60.0) -> str:
        """Run a shell script in a node; its output."""
        return self.lab.exec(node, "sh", "-c", script, check=check, timeout=timeout).stdout

    def background(self, node: str, *command: str, script: str = "") -> AbstractContextManager[subprocess.Popen[str]]:
        """Run a command in a node, with a script as its input, while the context lasts."""
        return self.here(self.lab.exec_command(node, *command), script)

    @staticmethod
    def here(command: Sequence[str], script: str = "") -> AbstractContextManager[subprocess.Popen[str]]:
        """Run a command on this machine, with a script as its input, while the context lasts."""
        return _background(command, script)


@contextmanager
def _background(command: Sequence[str], script: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a command here, with a script as its input; it is ended if it still runs at the end of the context."""
    running = subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert running.stdin is not None
    running.stdin.write(script)
    running.stdin.close()
    running.stdin = None  # `communicate` would write to it
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.fixture(scope="session")
def rooms() -> Iterator[Rooms]:
    """A bare lab with the library on both gateways and four RAM disks on each."""
    command(["down"])
    try:
        # By its command, so that the nodes are no children of the test's process.
        command(["up", "--bare", "--gateways", "2", "--initiators", "1"])
        found = Rooms(Lab(_NAME))
        for node in ("gw1", "gw2"):
            found.push(node)
            found.sh(node, "modprobe brd rd_nr=4 rd_size=65536")
        yield found
    finally:
        command(["down"])


def command(words: Sequence[str]) -> None:
    """Run the lab's own command on this lab."""
    subprocess.run([str(_ROOT / "tests/lab/lab"), *words, "--name", _NAME], check=True, timeout=600)
