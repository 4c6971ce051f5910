"""No secret is printed, logged, recorded, published or put on a command line: by no command, and by no failure.

Secrets that stand out are given to every command there is (`LINES` must name them all), with the store, Ceph, the key
and the code itself failing one after the other; then everything is looked through. The agent and its guard have a file
of their own, `test_no_secret_agent.py`, with the same secrets.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from gateway.cli import main as program
from gateway.credentials import Secret
from gateway.errors import BadInput, KernelRefused, RbdgateError, StorageUnavailable
from gateway.images import krbd
from gateway.images.cephx import CephKey, MonAddresses, read_keyring
from gateway.lio import configfs
from gateway.model import ImageName, Iqn
from gateway.observed import ANCHOR, Mapping
from gateway.store.cluster import ClusterStore
from gateway.store.wire import etcdrpc
from gateway.vault import Vault
from tests.fakes.ceph import FakeImage
from tests.fakes.operation import operation
from tests.unit.command_line import command_parsers
from tests.unit.hidden import (
    ALICE,
    AUTHORITY,
    CEPHX,
    FILES,
    PASSWORD,
    VAULT,
    WRONG,
    expect_none_in,
    kernel_with_secrets,
    write_settings,
)
from tests.unit.test_cli import Terminal
from tests.unit.test_plan import spec_of

BOB = Iqn("iqn.2026-11.x:bob")
CHAP = f"initiator chap set {ALICE} --user alice --secret-file one --mutual-user us --mutual-secret-file own"
DISCOVERY = "cluster discovery-auth set --user all --secret-file all --mutual-user us --mutual-secret-file us"
LINES = (
    "cluster init --network a=10.0.1.0/24,10.0.1.1-10.0.1.9 --anchor-pool rbd",
    "cluster show",
    "secrets create-key --settings settings",
    "secrets show-key-id --settings settings",
    "image create rbd/disk1 --size 1G --paths 2",
    f"initiator allow rbd/disk1 {ALICE}",
    f"initiator group create hosts {BOB}",
    f"initiator group add hosts {ALICE}",
    "initiator group list",
    "initiator group show hosts",
    CHAP,
    f"initiator chap show {ALICE}",
    DISCOVERY,
    "cluster discovery-auth show",
    "initiator list rbd/disk1",
    "image adopt rbd/old --paths 1",
    "image list",
    "image show rbd/disk1",
    "image move rbd/disk1",
    "image pin rbd/disk1 gw1",
    "image unpin rbd/disk1",
    "image keep-away rbd/disk1 gw2",
    "image keep-away rbd/disk1 --clear",
    "image rebalance",
    "image set rbd/disk1 --enforce-isids off",
    "image resize rbd/disk1 --size 2G",
    "image stop rbd/disk1",
    "image start rbd/disk1",
    "reservation list",
    "reservation show rbd/disk1",
    "reservation clear rbd/disk1 --reason test",
    f"reservation forget rbd/disk1 {ALICE},i,0x1,t,0x1 --reason test",
    "image restore rbd/disk1",
    "node list",
    "node show gw1",
    "node drain gw1 --reason test",
    "node maintenance gw1 --force",
    "node resume gw1",
    "node weight gw1 200",
    "node remove gw2",
    "plan --settings settings",
    "status",
    "doctor --settings settings --only settings",
    "completion bash",
    "monitoring rules",
    "monitoring dashboards boards",
    "events",
    "events --image rbd/disk1",
    f"initiator group remove hosts {ALICE}",
    f"initiator deny rbd/disk1 {ALICE}",
    "initiator group delete hosts",
    f"initiator chap clear {ALICE}",
    "cluster discovery-auth clear",
    "image delete rbd/disk1",
)
"""One operator's life, in an order in which most of it succeeds."""

ARGUMENTS: list[str] = []
"""What processes were started with since this module was loaded."""


def _audit(event: str, details: tuple[Any, ...]) -> None:
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        ARGUMENTS.append(repr(details))


sys.addaudithook(_audit)


@dataclass
class Desk:
    """An operator at a terminal; `shown` is all that could be seen by anybody."""

    terminal: Terminal
    shown: list[str] = field(default_factory=list)

    def run(self, line: str, *, as_json: bool = False) -> int:
        """One command; what it printed is kept, and its exit status returned."""
        status = self.terminal.run(line + (" --json" if as_json else ""))
        self.shown += [self.terminal.out, self.terminal.error]
        return status

    def expect_no_secret(self) -> None:
        """Look through what was printed, what is in etcd for all to see, and what processes were started with."""
        store = self.terminal.made.store
        self.terminal.made.etcd.down = False
        events = [str(event) for event in store.events().read().events]
        keys = [f"{item.key} {item.value!r}" for item in self.terminal.made.etcd.range("/").items]
        expect_none_in(*self.shown, *events, *keys, *ARGUMENTS, *sys.argv)


@pytest.fixture
def desk(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Two gateways, and a directory with settings and a file for each secret."""
    monkeypatch.chdir(tmp_path)
    for name, secret in {**FILES, **WRONG}.items():
        Path(name).touch(0o600)
        Path(name).write_text(secret + "\n")
    Path("binary").write_bytes(b"Unmistakable\xff-0")
    Path("keyring").write_text(f"[client.rbdgate]\n\tkey = {CEPHX}\n")
    write_settings(tmp_path, port=1)
    found = Desk(Terminal(operation(), capsys))
    found.terminal.made.ceph.images[ImageName("rbd", "old")] = FakeImage("old1", 1 << 30)
    monkeypatch.setattr("gateway.cli.plan.look_at_kernel", lambda *_: kernel_with_secrets(tmp_path))
    ARGUMENTS.clear()
    return found


def test_the_lines_name_every_command() -> None:
    """A new command has to be written down here, and so is looked at."""
    named = {words for words in command_parsers() for line in LINES if f"{line} ".startswith(f"{words} ")}
    assert named == set(command_parsers())


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_no_command_shows_a_secret(desk: Desk, as_json: bool) -> None:
    """Every command, for people and for scripts; most of them succeed, so that there is something to be shown."""
    statuses = [desk.run(line, as_json=as_json) for line in LINES]
    assert statuses.count(0) >= len(LINES) * 3 // 4, dict(zip(LINES, statuses, strict=True))
    assert statuses[LINES.index(CHAP)] == statuses[LINES.index(DISCOVERY)] == 0
    desk.expect_no_secret()


def failing_etcd(desk: Desk, _: pytest.MonkeyPatch) -> None:
    """No member answers."""
    desk.terminal.made.etcd.down = True


def failing_ceph(desk: Desk, _: pytest.MonkeyPatch) -> None:
    """Every act of Ceph is refused."""
    names = [name for name in vars(type(desk.terminal.made.ceph)) if not name.startswith("_")]
    desk.terminal.made.ceph.fail = {name: StorageUnavailable(f"{name}: no answer") for name in names}


def another_key(desk: Desk, _: pytest.MonkeyPatch) -> None:
    """This node has another key than the others."""
    desk.terminal.key = Vault(VAULT)


def stuck_agents(desk: Desk, _: pytest.MonkeyPatch) -> None:
    """No gateway does what is asked for."""
    for agent in desk.terminal.made.agents:
        agent.stuck = True


@pytest.mark.parametrize("fault", [failing_etcd, failing_ceph, another_key, stuck_agents])
def test_no_failure_of_a_command_shows_a_secret(
    desk: Desk, fault: Callable[[Desk, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command, with something that it needs failing, after secrets were set."""
    for line in (*LINES[4:6], CHAP, DISCOVERY):
        assert desk.run(line) == 0, desk.terminal.error
    fault(desk, monkeypatch)
    waiting = [words for words, parser in command_parsers().items() if "--timeout" in parser.format_usage()]
    for line in LINES:
        desk.run(f"{line} --timeout 1" if line.startswith(tuple(waiting)) else line, as_json=True)
    desk.expect_no_secret()


@pytest.mark.parametrize("name", [*WRONG, "binary", "none", "own"])
def test_a_secret_that_is_refused_is_not_shown(desk: Desk, name: str) -> None:
    """What is wrong with a secret is said without saying it, also where the target's is the initiator's."""
    assert desk.run(LINES[4]) == 0
    both = f"--secret-file {name} --mutual-user us --mutual-secret-file {name}"
    for options in (f"--secret-file {name}", both):
        if (name, options) != ("own", "--secret-file own"):
            assert desk.run(f"initiator chap set {ALICE} --user alice {options}", as_json=True) == 1
            assert desk.terminal.error
    desk.expect_no_secret()


def test_a_bug_shows_no_secret(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback has none, not even one with the values of all variables in it."""
    assert desk.run(LINES[4]) == 0
    assert desk.run(f"initiator allow rbd/disk1 {ALICE}") == 0

    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    found = []
    for name in ("set_credentials", "set_discovery", "view", "events"):
        with monkeypatch.context() as patch:
            if hasattr(ClusterStore, name):
                patch.setattr(ClusterStore, name, bug)
            else:
                patch.setattr(Vault, "seal", bug)
            for line in (CHAP, DISCOVERY):
                try:
                    desk.run(line)
                except ZeroDivisionError as error:
                    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
                    found.append("".join(whole.format()))
    assert len(found) >= 4
    expect_none_in(*found)


class Refusing(etcdrpc.AuthServicer):  # type: ignore[misc] # etcd's generated code has no types
    """An etcd that takes nobody's password; `heard` are those it was shown."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def Authenticate(self, request: Any, context: Any) -> None:  # noqa: N802 - gRPC's name
        """Refuse, in etcd's words."""
        self.heard.append(request.password)
        words = "etcdserver: authentication failed, invalid user ID or password"
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)


@contextmanager
def listening(auth: Refusing) -> Iterator[int]:
    """A member of etcd's that asks for a certificate; its port."""
    pair = AUTHORITY.issue("etcd", ["127.0.0.1"])
    papers = grpc.ssl_server_credentials(
        [(pair.key, pair.certificate)], AUTHORITY.certificate, require_client_auth=True
    )
    server = grpc.server(ThreadPoolExecutor(1))
    etcdrpc.add_AuthServicer_to_server(auth, server)
    port = server.add_secure_port("127.0.0.1:0", papers)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def test_a_refused_login_shows_no_password(desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real client of etcd's shows its certificate and its password, and says no more than which file was refused."""
    etcd = Refusing()
    with listening(etcd) as port:
        write_settings(tmp_path, port)
        for line in ("status", "doctor --only etcd", "events --json", "image show rbd/disk1"):
            assert program.run([*line.split(), "--settings", "settings"], program.open_session) == 1
            desk.shown += capsys.readouterr()
    assert set(etcd.heard) == {PASSWORD}
    assert str(tmp_path / "password") in "".join(desk.shown)
    desk.expect_no_secret()


DAMAGED = {
    "two passwords": ("password", f"{PASSWORD}\n{PASSWORD}\n".encode(), 0o600),
    "no text": ("password", PASSWORD.encode() + b"\xff", 0o600),
    "everybody's password": ("password", PASSWORD.encode(), 0o644),
    "no TLS key": ("tls.key", b"-----BEGIN PRIVATE KEY-----\nUnmistakable\n", 0o600),
    "another TLS key": ("tls.key", AUTHORITY.issue("another").key + b"Unmistakable", 0o600),
    "the group's TLS key": ("tls.key", b"Unmistakable", 0o640),
    "no key": ("key", b"Unmistakable", 0o600),
    "two keys": ("key", VAULT.hex().encode() * 2, 0o600),
    "no keyring": ("keyring", b"[client.rbdgate]\nkey = Unmistakable", 0o600),
}
"""What can be wrong with a file that has a secret: its name, what is in it, and its mode."""


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_not_quoted(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """Whatever is wrong with a file that has a secret, the file is named and none of it is shown."""
    name, content, mode = DAMAGED[damage]
    with listening(Refusing()) as port:
        write_settings(tmp_path, port)
        (tmp_path / name).touch()
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(mode)
        for line in ("status", "doctor --only settings", "doctor --only ceph", "secrets show-key-id"):
            program.run([*line.split(), "--settings", "settings"], program.open_session)
            desk.shown += capsys.readouterr()
    assert name in "".join(desk.shown)
    desk.expect_no_secret()


def test_what_the_kernel_refuses_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """configfs refuses the file, krbd the map: the error names neither the secret nor the key."""
    said: list[BaseException] = []
    with pytest.raises(KernelRefused) as refused:
        configfs.write_secret(str(tmp_path / "none/password"), Secret(FILES["one"]))
    said.append(refused.value)
    key = CephKey.parse(CEPHX)
    client = krbd.KernelClient(MonAddresses(("10.0.0.1:6789",), ()), "rbdgate", key)
    anchor = Mapping(0, "rbd", "", ANCHOR, "1", None, {"mount_timeout": "10"}, read_only=True, size=1)  # type: ignore[arg-type]
    monkeypatch.setattr(krbd.Krbd, "mappings", lambda _: (anchor,))
    with pytest.raises(RbdgateError) as unmapped:
        krbd.Krbd(bus=tmp_path).map_image(spec_of(1).name, client, anchor)
    said.append(unmapped.value)
    one_key = "[client.rbdgate]\nkey = Unmistakable-9"
    for text in ("[client.rbdgate]\nkey Unmistakable", one_key, "Unmistakable", f"# caf\xe9\n{one_key}"):
        (tmp_path / "keyring").write_text(text, encoding="latin-1")
        with pytest.raises(BadInput) as damaged:
            read_keyring(tmp_path / "keyring", "client.rbdgate")
        said.append(damaged.value)
    expect_none_in(repr(client), str(key), *(repr(error) + str(error) for error in said))
    expect_none_in(*("".join(traceback.format_exception(error)) for error in said))
