"""A small real Ceph cluster from Debian's binaries: one mon, some OSDs, cephx, every daemon a `Process`.

Everything lies under one directory, and a new object on the same directory finds what an earlier one started.
Only the standard library and Debian's `rados` are used, so that /usr/bin/python3 runs it; run as a program
this file sends mon commands (JSON in, JSON out), which is how it reaches a mon inside a network namespace.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import time
import uuid
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __package__:
    from tests.lab.processes import Process

_SETTINGS = {
    # Quick and small rather than safe: a lab's data is worth nothing, its seconds are.
    "global": {
        "auth_cluster_required": "cephx",
        "auth_service_required": "cephx",
        "auth_client_required": "cephx",
        "osd_pool_default_size": "1",
        "osd_pool_default_min_size": "1",
        "osd_pool_default_pg_autoscale_mode": "off",
        "mon_allow_pool_size_one": "true",
        "mon_allow_pool_delete": "true",
        "mon_warn_on_pool_no_redundancy": "false",
        # What reaches a pool of one copy while its read lease is over is never answered: nobody is there to acknowledge
        # the next one, which would wake it (seen on 16.2). It lasts 20 s, the heartbeats' grace, so many times.
        "osd_pool_default_read_lease_ratio": "45",
    },
    "mon": {
        "paxos_propose_interval": "0.02",
        "mon_data_avail_crit": "1",
        "mon_data_avail_warn": "2",
        # An OSD that a test stops for half a minute stays in the map, so its pool waits instead of failing.
        "mon_osd_report_timeout": "900",
    },
    "osd": {
        "osd_objectstore": "bluestore",
        "bluestore_block_size": str(16 << 30),
        "bluestore_block_create": "true",
        "bluestore_fsck_on_mkfs": "false",
        "bluestore_rocksdb_cf": "false",
        "bluestore_cache_autotune": "false",
        "bluestore_cache_size": str(64 << 20),
        "bdev_aio_poll_ms": "20",
        "osd_op_num_shards": "1",
        "osd_op_num_threads_per_shard": "2",
    },
    "client": {"objecter_tick_interval": "0.5", "objecter_timeout": "1"},
}


def _new_key() -> str:
    """A cephx secret: type 1 (AES), creation time, length 16, sixteen random bytes (src/auth/Crypto.cc)."""
    return b64encode(struct.pack("<hiih", 1, int(time.time()), 0, 16) + secrets.token_bytes(16)).decode()


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


@dataclass(frozen=True)
class Osd:
    """One OSD daemon of the cluster, by Ceph's own number."""

    number: int
    process: Process
    command: tuple[str, ...]
    log: Path

    def start(self) -> None:
        """Start the daemon unless it runs."""
        if not self.process.alive():
            self.process.start(self.command, log=self.log)

    def stop(self) -> None:
        """Stop the daemon where it is (SIGSTOP): its sockets stay open and say nothing."""
        self.process.signal(signal.SIGSTOP)

    def cont(self) -> None:
        """Let a stopped daemon go on."""
        self.process.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the daemon (SIGKILL): its sockets close at once."""
        self.process.end()


@dataclass(frozen=True)
class CephCluster:
    """The cluster in `directory`; daemons listen on the given addresses only, inside `netns` if one is named."""

    directory: Path
    mon_address: str
    osd_addresses: Sequence[str] = field(default_factory=tuple)
    netns: str | None = None

    @property
    def conf(self) -> Path:
        """The configuration file for daemons and clients."""
        return self.directory / "ceph.conf"

    @property
    def admin_keyring(self) -> Path:
        """The keyring of client.admin, mode 0600."""
        return self.directory / "ceph.client.admin.keyring"

    @property
    def mon(self) -> Process:
        """The mon's process."""
        return Process(self.directory / "run" / "mon.pid")

    def osd(self, number: int) -> Osd:
        """The OSD of that number, 0 and up."""
        if not 0 <= number < len(self.osd_addresses):
            raise ValueError(f"there is no OSD {number}; the last one is {len(self.osd_addresses) - 1}")
        return Osd(
            number,
            Process(self.directory / "run" / f"osd.{number}.pid"),
            (*self._enter, "ceph-osd", "-f", "-i", str(number), "-c", str(self.conf)),
            self.directory / "log" / f"osd.{number}.out",
        )

    def start(self, *, within: float = 60.0) -> None:
        """Bring everything up, making it first if the directory is new; returns when all OSDs are up."""
        made = self.conf.exists()
        if not made:
            self._make()
        if not self.mon.alive():
            command = (*self._enter, "ceph-mon", "-f", "-i", "a", "-c", str(self.conf))
            self.mon.start(command, log=self.directory / "log" / "mon.out")
        numbers = range(len(self.osd_addresses))
        if not made:
            self.commands(*({"prefix": "osd new", "uuid": self._osd_uuid(n), "id": n} for n in numbers))
        for number in numbers:
            self.osd(number).start()
        deadline = time.monotonic() + within
        while self._osds_up() < len(self.osd_addresses):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all OSDs were up within {within} s; see {self.directory / 'log'}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End every daemon; the data stays, `start` brings it back."""
        for number in range(len(self.osd_addresses)):
            self.osd(number).process.end(grace=3.0)
        self.mon.end(grace=3.0)

    def create_pool(self, name: str, osd_number: int) -> None:
        """Make an RBD pool of one replica that lives on that OSD alone."""
        rule = f"only-{osd_number}"
        self.commands(
            {"prefix": "osd crush rule create-replicated", "name": rule, "root": rule, "type": "osd"},
            {"prefix": "osd pool create", "pool": name, "pg_num": 8, "pool_type": "replicated", "rule": rule},
            {"prefix": "osd pool application enable", "pool": name, "app": "rbd"},
        )

    def add_user(self, name: str, mon_caps: str, osd_caps: str) -> Path:
        """Make client.`name` with those caps and return its keyring's path, mode 0600."""
        caps = ["mon", mon_caps, "osd", osd_caps]
        (answer,) = self.commands({"prefix": "auth get-or-create", "entity": f"client.{name}", "caps": caps})
        keyring = self.directory / f"ceph.client.{name}.keyring"
        _write_private(keyring, answer)
        return keyring

    def commands(self, *commands: Mapping[str, object]) -> list[str]:
        """Send mon commands as client.admin, in turn; their outputs. Raises RuntimeError at the first refusal."""
        result = subprocess.run(
            [*self._enter, "/usr/bin/python3", __file__, str(self.conf), str(self.admin_keyring)],
            input=json.dumps(list(commands)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(result.stderr.strip()[-2000:])
        answers: list[str] = json.loads(result.stdout)
        return answers

    def rbd(self, *arguments: str) -> str:
        """What Debian's `rbd` printed as this cluster's administrator; CalledProcessError with what it said."""
        words = ("rbd", "-c", str(self.conf), "--keyring", str(self.admin_keyring), *arguments)
        command = [*self._enter, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    @property
    def _enter(self) -> tuple[str, ...]:
        # nsenter becomes the daemon; `ip netns exec` would leave it in a mount namespace of its own.
        return ("nsenter", f"--net=/run/netns/{self.netns}") if self.netns else ()

    def _osds_up(self) -> int:
        (dump,) = self.commands({"prefix": "osd dump", "format": "json"})
        # The map calls a killed OSD up until a peer complains; the nonce in its address is the daemon's pid.
        nonces = {
            osd["osd"]: osd["public_addrs"]["addrvec"][0]["nonce"] for osd in json.loads(dump)["osds"] if osd["up"]
        }
        return sum(self.osd(number).process.pid == nonce for number, nonce in nonces.items())

    def _osd_uuid(self, number: int) -> str:
        return str(uuid.uuid5(uuid.UUID((self.directory / "fsid").read_text()), f"osd.{number}"))

    def _make(self) -> None:
        """Lay out the directory: keys, configuration, and the stores of the mon and of every OSD."""
        for name in ("run", "log", "mon"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        fsid = str(uuid.uuid4())
        (self.directory / "fsid").write_text(fsid)
        keys = {number: _new_key() for number in range(len(self.osd_addresses))}
        _write_private(
            self.admin_keyring,
            f"[client.admin]\n\tkey = {_new_key()}\n"
            '\tcaps mon = "allow *"\n\tcaps osd = "allow *"\n\tcaps mgr = "allow *"\n',
        )
        bootstrap = self.directory / "mon.keyring"
        osds = "".join(
            f'[osd.{n}]\n\tkey = {key}\n\tcaps mon = "allow profile osd"\n\tcaps osd = "allow *"\n'
            for n, key in keys.items()
        )
        mon = f'[mon.]\n\tkey = {_new_key()}\n\tcaps mon = "allow *"\n'
        _write_private(bootstrap, mon + self.admin_keyring.read_text() + osds)
        draft = self.directory / "ceph.conf.new"
        draft.write_text(self._configuration(fsid))
        monmap = self.directory / "monmap"
        address = f"[v2:{_host(self.mon_address)}:3300,v1:{_host(self.mon_address)}:6789]"
        _run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, str(monmap))
        makers = [_begin("ceph-mon", "--mkfs", "-i", "a", "-c", draft, "--monmap", monmap, "--keyring", bootstrap)]
        for number, key in keys.items():
            home = self.directory / f"osd.{number}"
            home.mkdir(exist_ok=True)
            _write_private(home / "keyring", f"[osd.{number}]\n\tkey = {key}\n")
            options = (
                "--mkfs",
                "--no-mon-config",
                "-i",
                number,
                "-c",
                draft,
                "--osd-uuid",
                self._osd_uuid(number),
            )
            makers.append(_begin("ceph-osd", *options))
        for maker in makers:
            _finish(maker)
        bootstrap.unlink()
        draft.rename(self.conf)  # last: its presence says that all of the above is done

    def _configuration(self, fsid: str) -> str:
        here = self.directory
        sections = {name: dict(values) for name, values in _SETTINGS.items()}
        v6 = ":" in self.mon_address
        sections["global"] |= {
            "fsid": fsid,
            "mon_host": f"[v2:{_host(self.mon_address)}:3300,v1:{_host(self.mon_address)}:6789]",
            "ms_bind_ipv4": str(not v6).lower(),
            "ms_bind_ipv6": str(v6).lower(),
            "log_file": f"{here}/log/$name.log",
            "run_dir": f"{here}/run",
        }
        sections["mon"]["mon_data"] = f"{here}/mon"
        sections["osd"] |= {"osd_data": f"{here}/osd.$id", "keyring": f"{here}/osd.$id/keyring"}
        # Clients share this file but not the daemons' directories: no admin socket, no log file of their own.
        sections["client"] |= {"log_file": "", "admin_socket": "", "keyring": f"{here}/ceph.$name.keyring"}
        for number, address in enumerate(self.osd_addresses):
            sections[f"osd.{number}"] = {
                "public_addr": address,
                "cluster_addr": address,
                "crush_location": f"root=only-{number} host=host-{number}",
            }
        return "".join(
            f"[{name}]\n" + "".join(f"\t{key} = {value}\n" for key, value in values.items()) + "\n"
            for name, values in sections.items()
        )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _begin(*command: object) -> subprocess.Popen[str]:
    words = [str(word) for word in command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=60)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} failed: {output.strip()[-2000:]}")


def _run(*command: str) -> None:
    _finish(_begin(*command))


def remove(cluster: CephCluster) -> None:
    """End the cluster's daemons at once and remove its directory."""
    for number in range(len(cluster.osd_addresses)):
        cluster.osd(number).process.end()
    cluster.mon.end()
    shutil.rmtree(cluster.directory, ignore_errors=True)


def _send_commands(conf: str, keyring: str) -> None:
    """The program: mon commands as a JSON list on stdin, their outputs as a JSON list on stdout."""
    import rados  # noqa: PLC0415 - Debian's module; whoever only imports this file may not have it

    settings = {"keyring": keyring, "client_mount_timeout": "30", "rados_mon_op_timeout": "30"}
    answers = []
    with rados.Rados(conffile=conf, name="client.admin", conf=settings) as cluster:
        for command in json.load(sys.stdin):
            code, output, complaint = cluster.mon_command(json.dumps(command), b"")
            if code:
                sys.exit(f"{command['prefix']}: error {-code}: {complaint}")
            answers.append(output.decode())
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    _send_commands(sys.argv[1], sys.argv[2])
