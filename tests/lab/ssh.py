"""Commands inside the nodes: one ssh connection to each, kept open, over the network that is never cut."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.furnish import Keys
from tests.lab.host import run
from tests.lab.layout import LabError, Node, Places
from tests.lab.processes import Process

BOOT_BOUND = 120.0  # seconds until a node that was switched on must answer; four at once take under 30 on 2 idle cores


def make_keys(directory: Path) -> Keys:
    """Make the lab's two key pairs and the file that says which host key the nodes show."""
    keys = keys_in(directory)
    directory.mkdir(parents=True, mode=0o700)
    for path in (keys.user, keys.host):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rbdgate-lab", "-f", str(path)])
    (directory / "known_hosts").write_text(f"lab {keys.host.with_suffix('.pub').read_text()}")
    return keys


def keys_in(directory: Path) -> Keys:
    """The keys that `make_keys` made there."""
    return Keys(directory / "user", directory / "host")


def trusted(directory: Path) -> dict[str, object]:
    """ssh's options by which a node is known, and knows us, by the keys that `make_keys` made there, and no others."""
    return {
        "IdentityFile": keys_in(directory).user,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": directory / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "lab",
    }


@dataclass(frozen=True)
class Door:
    """The way into one node."""

    node: Node
    places: Places

    def command(self, words: Sequence[str], *, shared: bool = True) -> list[str]:
        """The host's command that runs those words in the node, with the status, input and output they have there.

        Over the kept connection, or, if not `shared`, over one of its own that ends with it (0.2 s more).
        """
        apart = () if shared else ("-S", "none")
        return [*self._ssh(), *apart, "-T", self.node.control, shlex.join(words)]

    def open(self, seconds: float = BOOT_BOUND) -> None:
        """Wait until the node answers, and keep a connection; LabError after `seconds`."""
        deadline = time.monotonic() + seconds
        self.close()
        while not self._answers():
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.node.name} did not answer within {seconds:.0f} s; see {self.places.console(self.node)}"
                )
            time.sleep(0.5)
        self._master.start([*self._ssh(), "-N", "-M", self.node.control], log=self.places.data / "log/ssh.log")
        while not self._socket.exists() and self._master.alive() and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self) -> None:
        """Drop the kept connection."""
        self._master.end()
        self._socket.unlink(missing_ok=True)

    @property
    def _socket(self) -> Path:
        return self.places.run / f"{self.node.name}.ssh"

    @property
    def _master(self) -> Process:
        return Process(self.places.run / f"{self.node.name}.ssh.pid")

    def _answers(self) -> bool:
        probe = [*self._ssh(), "-o", "ConnectTimeout=3", "-T", self.node.control, "true"]
        try:
            return subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _ssh(self) -> list[str]:
        keys = self.places.data / "keys"
        options = {
            **trusted(keys),
            "ControlPath": self._socket,
            "ConnectTimeout": 20,
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "User": "root",
        }
        words = [f"{word}" for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["nsenter", f"--net=/run/netns/{self.places.netns}", "ssh", "-F", "none", *words]
