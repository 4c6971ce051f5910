"""One connection to a Ceph cluster: a RADOS client with every time-out set, and the one place that names its errors.

librados' handle may be shared by threads; an I/O context may not (its "last version" belongs to whoever called
last), so `pool` opens a new one each time, which costs no round trip.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import rados
import rbd

from gateway.errors import (
    AlreadyExists,
    Blocklisted,
    NotFound,
    RbdgateError,
    Refused,
    StorageUnavailable,
)
from gateway.images.cephx import CephKey, MonAddresses, read_keyring
from gateway.model import Instance

_TIMED_OUT = 110
_MEANING: Mapping[int, tuple[type[RbdgateError], str]] = {
    1: (Refused, "not permitted: check the caps of this cephx user"),
    2: (NotFound, "it does not exist"),
    13: (Refused, "access denied: check the key and the caps of this cephx user"),
    16: (Refused, "it is in use"),
    17: (AlreadyExists, "it exists already"),
    22: (Refused, "Ceph calls the request invalid"),
    28: (Refused, "the cluster or pool is full"),
    39: (Refused, "it has snapshots; remove them first"),
    108: (Blocklisted, "this client is on the blocklist: another gateway has fenced this node"),
}


@contextmanager
def storage_errors(what: str, *, timed_out: type[RbdgateError] = StorageUnavailable) -> Iterator[None]:
    """Name what librados and librbd raise; `timed_out` is what a time-out means (a write's is `OutcomeUnknown`)."""
    try:
        yield
    except (rados.Error, rbd.Error) as error:
        raise _named(what, getattr(error, "errno", None), str(error), timed_out) from None


def _named(what: str, errno: int | None, text: str, timed_out: type[RbdgateError]) -> RbdgateError:
    number = abs(errno or 0)
    if number == _TIMED_OUT:
        return timed_out(f"{what}: Ceph did not answer in time; see whether its OSDs and monitors are up")
    kind, meaning = _MEANING.get(number, (StorageUnavailable, f"Ceph answered with error {number}"))
    return kind(f"{what}: {meaning} ({text})")


class CephConnection:
    """A RADOS client of the user `client.<user>`; connecting blocks for at most `op_timeout` seconds.

    One connection is one client instance: after `Blocklisted` a new one is needed. `op_timeout` bounds each
    operation on an object and each command to the monitors.
    """

    def __init__(self, conf: Path, user: str, keyring: Path, *, op_timeout: float) -> None:
        self.user = user
        self.key: CephKey = read_keyring(keyring, f"client.{user}")
        self.op_timeout = op_timeout
        whole_seconds = str(math.ceil(op_timeout))  # these options take no fractions
        settings = {
            "keyring": str(keyring),
            "client_mount_timeout": whole_seconds,
            "rados_mon_op_timeout": whole_seconds,
            "rados_osd_op_timeout": whole_seconds,
            # A restarted OSD is tried again after 1 s instead of 5 to 15 (Objecter::tick).
            "objecter_tick_interval": "0.5",
            "objecter_timeout": "1",
            # Whoever breaks a lock here has fenced its owner before.
            "rbd_blocklist_on_break_lock": "false",
            # The daemon's output is ours, and a client needs no files of its own.
            "log_to_stderr": "false",
            "log_file": "",
            "admin_socket": "",
        }
        with storage_errors(f"connecting to Ceph as client.{user} with {conf}"):
            self._rados = rados.Rados(name=f"client.{user}", conffile=str(conf), conf=settings)
            try:
                self._rados.connect()
                self.fsid: str = self._rados.get_fsid()
                self.instance = Instance(self._rados.get_addrs())
                # A client without any map waits for its first one in every call, without a bound.
                self.await_newest_map()
            except BaseException:
                self._rados.shutdown()
                raise

    def __repr__(self) -> str:
        return f"CephConnection(client.{self.user}, {self.instance})"

    def __enter__(self) -> CephConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the client; operations under way fail."""
        self._rados.shutdown()

    def command(self, prefix: str, **arguments: object) -> str:
        """Send a command to the monitors and return its output."""
        request = json.dumps({"prefix": prefix, **arguments})
        with storage_errors(f"ceph {prefix}"):
            code, output, complaint = self._rados.mon_command(request, b"")
        if code:
            raise _named(f"ceph {prefix}", code, complaint, StorageUnavailable)
        text: str = output.decode()
        return text

    def refusal(self, prefix: str, **arguments: object) -> int:
        """Send a command to the monitors for the sake of its answer's errno; 0 if they did it."""
        with storage_errors(f"ceph {prefix}"):
            code, _, _ = self._rados.mon_command(json.dumps({"prefix": prefix, **arguments}), b"")
        return abs(int(code))

    @contextmanager
    def pool(self, pool: str, namespace: str = "") -> Iterator[rados.Ioctx]:
        """An I/O context of the caller's own on a pool; raises NotFound for a pool that does not exist."""
        with storage_errors(f"pool {pool!r}"):
            if pool not in self._rados.list_pools():
                # Only now ask the monitors: librados waits without any bound for a pool it has not heard of.
                self._require_pool(pool)
            ioctx = self._rados.open_ioctx(pool)
        try:
            ioctx.set_namespace(namespace)
            yield ioctx
        finally:
            ioctx.close()

    def pool_name(self, pool_id: int) -> str:
        """The name of the pool with that number."""
        with storage_errors(f"pool number {pool_id}"):
            name: str | None = self._rados.pool_reverse_lookup(pool_id)
        if name is None:
            raise NotFound(f"there is no pool number {pool_id}")
        return name

    def mon_addresses(self) -> MonAddresses:
        """Every monitor's addresses, as the monitors themselves list them."""
        mons = json.loads(self.command("mon dump", format="json"))["mons"]
        entries = [entry for mon in mons for entry in mon["public_addrs"]["addrvec"]]
        by_type = {kind: tuple(e["addr"] for e in entries if e["type"] == kind) for kind in ("v1", "v2")}
        return MonAddresses(**by_type)

    def await_newest_map(self) -> None:
        """Return when this client has the newest OSD map there is; StorageUnavailable after `op_timeout` seconds.

        librados' call has no time-out, whatever is configured: with the monitors silent it waits for good. So it
        runs in a thread that is left behind at the bound; it ends by itself when a monitor answers again.
        """
        answer = _Answer()
        threading.Thread(target=answer.ask, args=(self._rados,), name="rados-map", daemon=True).start()
        if not answer.came.wait(self.op_timeout):
            raise StorageUnavailable(f"no monitor named the newest OSD map within {self.op_timeout} s")
        if answer.error is not None:
            with storage_errors("waiting for the newest OSD map"):
                raise answer.error

    def _require_pool(self, pool: str) -> None:
        if pool not in (entry["poolname"] for entry in json.loads(self.command("osd lspools", format="json"))):
            raise NotFound(f"there is no pool {pool!r}; see `ceph osd pool ls`")


@dataclass
class _Answer:
    came: threading.Event = field(default_factory=threading.Event)
    error: rados.Error | None = None

    def ask(self, handle: rados.Rados) -> None:
        try:
            handle.wait_for_latest_osdmap()
        except rados.Error as error:
            self.error = error
        self.came.set()
