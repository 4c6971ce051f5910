"""A real etcd cluster of Debian's packages: members that can be stopped, continued, killed and started again.

Everything a member is lies under the cluster's directory (data, log, pidfile), so a later command that names the
same directory finds the running members. Standard library only: the lab runs under Debian's own Python.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import warnings
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.processes import Process

STOP_BOUND = 5.0  # seconds until every thread of a stopped member stands still
HISTORY_BOUND = 3.0  # seconds to tell what happened since a revision; some hundred events take a tenth of one
START_BOUND = 20.0  # seconds until a cluster that was started must answer; it takes 1-2 s on 2 idle cores


@dataclass(frozen=True)
class Member:
    """One etcd process, with its data in `directory`; `stop` and `cont` freeze and thaw it, `kill` is a power cut."""

    name: str
    directory: Path
    command: tuple[str, ...]

    @property
    def process(self) -> Process:
        """The process behind this member, found by its pidfile."""
        return Process(self.directory / f"{self.name}.pid")

    @property
    def log(self) -> Path:
        """Where the member's output is appended."""
        return self.directory / f"{self.name}.log"

    def start(self) -> None:
        """Start the member on the data it has, or as a new one; RuntimeError if it runs already."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # that it outlives its Popen is what it is for
            self.process.start(self.command, log=self.log)

    def stop(self) -> None:
        """Freeze the member with SIGSTOP: connections stay open and nothing answers any more once this returns."""
        self.process.signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_BOUND
        # kill(2) returns before the threads stand still; on a busy machine one of them still answered a write.
        while not self._frozen():
            if time.monotonic() >= deadline:
                raise RuntimeError(f"{self.name} still runs {STOP_BOUND} s after SIGSTOP")
            time.sleep(0.005)

    def _frozen(self) -> bool:
        """Whether each thread is in state T (`/proc/<pid>/task/<tid>/stat`, field 3), or the process is gone."""
        tasks = Path(f"/proc/{self.process.pid or 0}/task").glob("*")
        try:
            return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile: look again
            return False

    def cont(self) -> None:
        """Let a frozen member go on."""
        self.process.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the member with SIGKILL, as a power cut would; its data stays."""
        self.process.end()

    def alive(self) -> bool:
        """Whether the member's process exists (a frozen one does)."""
        return self.process.alive()


@dataclass(frozen=True)
class Tls:
    """Files of mutual TLS: `ca.crt`, each member's `<name>.crt` and `.key`, and `etcdctl.crt` and `.key`."""

    directory: Path

    def member_options(self, name: str) -> tuple[str, ...]:
        """What a member is started with: it and its peers show certificates, and so must its clients."""
        certificate, key, ca = (self.directory / file for file in (f"{name}.crt", f"{name}.key", "ca.crt"))
        kinds = ("", "peer-")
        return tuple(
            option
            for kind in kinds
            for option in (
                f"--{kind}cert-file={certificate}",
                f"--{kind}key-file={key}",
                f"--{kind}trusted-ca-file={ca}",
                f"--{kind}client-cert-auth",
            )
        )

    @property
    def etcdctl_options(self) -> tuple[str, ...]:
        """What etcdctl is run with."""
        files = {"cacert": "ca.crt", "cert": "etcdctl.crt", "key": "etcdctl.key"}
        return tuple(f"--{option}={self.directory / file}" for option, file in files.items())


class EtcdCluster:
    """One member per address, all on the same ports; in the network namespace `netns` if one is named.

    With `tls` everything is spoken over it. `environment` is added to etcdctl's: its user, where etcd asks for one.
    """

    def __init__(
        self,
        directory: Path,
        addresses: Sequence[str],
        netns: str | None = None,
        client_port: int = 2379,
        peer_port: int = 2380,
        *,
        tls: Tls | None = None,
    ) -> None:
        self.directory = directory
        self.tls = tls
        self.environment: dict[str, str] = {}
        self._scheme = scheme = "https" if tls else "http"
        self.endpoints = tuple(f"{address}:{client_port}" for address in addresses)
        self._inside = ("ip", "netns", "exec", netns) if netns else ()
        self._peers = peers = {
            f"etcd-{n}": f"{scheme}://{address}:{peer_port}" for n, address in enumerate(addresses, 1)
        }
        self.members = tuple(
            Member(
                name,
                directory,
                (
                    *self._inside,
                    *_command(name, directory, f"{scheme}://{endpoint}", peers),
                    *(tls.member_options(name) if tls else ()),
                ),
            )
            for (name, endpoint) in zip(peers, self.endpoints, strict=True)
        )

    def member(self, number: int) -> Member:
        """The member with this number; the first is 1."""
        if not 1 <= number <= len(self.members):
            raise ValueError(f"there is no etcd member {number}: they are 1 to {len(self.members)}")
        return self.members[number - 1]

    def leading(self) -> Member:
        """The member that leads now; RuntimeError while there is none."""
        answer = self.etcdctl("--command-timeout=2s", "endpoint", "status", "--write-out=json")
        # A member that is down makes the exit status 1; what the others say is printed all the same.
        for member in json.loads(answer.stdout or "[]"):
            status = member["Status"]
            if status.get("leader", 0) == status["header"]["member_id"]:
                return self.members[self.endpoints.index(member["Endpoint"].removeprefix(f"{self._scheme}://"))]
        raise RuntimeError(f"etcd has no leader: {answer.stderr or answer.stdout}")

    def start(self) -> None:
        """Start what is not running and return when every member answers; RuntimeError after `START_BOUND`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for member in self.members:
            if not member.alive():
                member.start()
        self.wait_healthy(START_BOUND)

    def stop(self) -> None:
        """End every member; the data stays until the directory is removed."""
        for member in self.members:
            member.kill()

    def forget(self) -> None:
        """Kill every member, throw its data away, and start a new cluster."""
        self.stop()
        for member in self.members:
            shutil.rmtree(self.directory / member.name)
        self.start()

    def back_up(self) -> Path:
        """Save a snapshot of one member; the file's path."""
        file = self.directory / "backup.db"
        self._ctl("--endpoints=" + self.endpoints[0], "snapshot", "save", str(file))
        return file

    def restore(self, backup: Path) -> None:
        """Kill every member, give each the snapshot's data in place of its own, and start the new cluster."""
        self.stop()
        for member in self.members:
            shutil.rmtree(self.directory / member.name)
            self._ctl(
                *("snapshot", "restore", str(backup), f"--name={member.name}"),
                f"--data-dir={self.directory / member.name}",
                f"--initial-advertise-peer-urls={self._peers[member.name]}",
                "--initial-cluster=" + ",".join(f"{peer}={url}" for peer, url in self._peers.items()),
                f"--initial-cluster-token={self.directory.name}",
            )
        self.start()

    def _ctl(self, *words: str) -> None:
        done = subprocess.run(
            [*self._inside, "etcdctl", *words], capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise RuntimeError(f"etcdctl {' '.join(words)}: {done.stderr or done.stdout}")

    def wait_healthy(self, seconds: float) -> None:
        """Return when every member answers a linearizable read; RuntimeError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.etcdctl("--command-timeout=1s", "endpoint", "health")
            if answer.returncode == 0:
                return
            if time.monotonic() >= deadline:
                raise RuntimeError(f"etcd is not healthy after {seconds} s: {answer.stderr or answer.stdout}")
            time.sleep(0.1)

    def history(self, prefix: str, revision: int) -> list[tuple[str, str]]:
        """What happened to the keys under a prefix from that revision on: PUT or DELETE, and the key.

        A watch tells it and never ends by itself, so it is ended after `HISTORY_BOUND` seconds.
        """
        bounded = ("timeout", str(HISTORY_BOUND), "etcdctl", f"--endpoints={self.endpoints[0]}")
        command = [*self._inside, *bounded, "watch", "--prefix", f"--rev={revision}", "--write-out=json", prefix]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
        events = [event for line in said.splitlines() for event in json.loads(line)["Events"]]
        # Type 1 is a deletion; a PUT is 0 and left out (etcd's mvccpb.Event).
        return [("DELETE" if e.get("type") else "PUT", b64decode(e["kv"]["key"]).decode()) for e in events]

    def etcdctl(self, *arguments: str, said: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run Debian's `etcdctl` against all members, bounded to 30 s; its exit status is the caller's to judge.

        `said` is its standard input: a password.
        """
        endpoints = "--endpoints=" + ",".join(f"{self._scheme}://{endpoint}" for endpoint in self.endpoints)
        secured = self.tls.etcdctl_options if self.tls else ()
        command = [*self._inside, "etcdctl", endpoints, *secured, *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            input=said,
            env={**os.environ, **self.environment},
        )


def _command(name: str, directory: Path, url: str, peers: dict[str, str]) -> tuple[str, ...]:
    """The member's command line; heartbeat (100 ms) and election time-out (1 s) stay etcd's defaults."""
    return (
        "etcd",
        f"--name={name}",
        f"--data-dir={directory / name}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peers[name]}",
        f"--initial-advertise-peer-urls={peers[name]}",
        "--initial-cluster=" + ",".join(f"{peer}={url}" for peer, url in peers.items()),
        f"--initial-cluster-token={directory.name}",
        "--snapshot-count=10000",
        "--logger=zap",
        "--log-level=warn",
    )
