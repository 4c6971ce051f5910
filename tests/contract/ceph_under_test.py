"""What the contract tests' Ceph fixtures hand out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.images.cluster import CephConnection
from gateway.images.header import ImageHeader
from gateway.model import ImageName
from tests.lab.ceph import CephCluster

CHECKOUT = Path(__file__).resolve().parents[2]

NewImage = Callable[[], tuple[ImageName, ImageHeader]]
"""Makes an image of 1 MiB in pool rbd, under a name of its own."""


@dataclass(frozen=True)
class Ceph:
    """A running cluster with pools `rbd` (on OSD 0) and `rbd2` (on OSD 1), and the least-privileged user `gw`."""

    cluster: CephCluster
    keyring: Path

    def connect(self, *, op_timeout: float = 10.0) -> CephConnection:
        """A new client of the user gw."""
        return CephConnection(self.cluster.conf, "gw", self.keyring, op_timeout=op_timeout)

    def actor(self, role: str, *arguments: str) -> subprocess.Popen[str]:
        """A process of tests/contract/ceph_actors.py with its standard output on a pipe."""
        command = [sys.executable, "-m", "tests.contract.ceph_actors", role]
        options = [str(self.cluster.conf), str(self.keyring), *arguments]
        return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
