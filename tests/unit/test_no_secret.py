"""No secret is printed, logged, recorded, published or put on a command line: by no command, and by no failure.

Secrets that stand out are given to every command there is (`LINES` must name them all) and to a whole agent, with the
store, Ceph, the kernel, the key and the code itself failing one after the other; then everything is looked through.
"""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent import cycle as cycle_module
from agent import journal
from agent.chronicle import Chronicle
from agent.opening import Opener
from gateway.actions import credentials as acts
from gateway.credentials import Credentials, Secret
from gateway.errors import BadInput, KernelRefused, RbdgateError, StorageUnavailable
from gateway.images import krbd
from gateway.images.cephx import CephKey, MonAddresses, read_keyring
from gateway.lio import configfs
from gateway.model import ImageName, Iqn
from gateway.observed import ANCHOR, Kernel, Mapping
from gateway.store.cluster import ClusterStore
from gateway.vault import Vault, load
from tests.fakes.agent import KEY
from tests.fakes.ceph import FakeImage
from tests.fakes.member import PREFIX, Cluster, Member
from tests.fakes.operation import operation
from tests.unit.command_line import command_parsers
from tests.unit.test_cli import Terminal
from tests.unit.test_plan import NETWORKS, spec_of

ALICE, BOB = Iqn("iqn.2026-11.x:alice"), Iqn("iqn.2026-11.x:bob")
FILES = {
    "one": "Unmistakable-One-1",
    "own": "Unmistakable-Own-2",
    "all": "Unmistakable-All-3",
    "us": "Unmistakable-Us-4",
}
"""An initiator's secret and the target's, discovery's and the target's there, each in a file of its own."""

WRONG = {"short": "Unmist-5", "odd": "Unmistakable Odd\t6", "null": "NULL-Unmistakable-7", "number": "0xUnmistakable-8"}
"""Secrets that are refused."""

CEPHX = base64.b64encode(b"\1\0" + bytes(10) + b"Unmistakable-Ceph-9").decode()
VAULT = bytes(range(200, 232))
_PLAIN = (*(text.encode() for text in (*FILES.values(), *WRONG.values())), VAULT, KEY.key, b"Unmistakable")
HIDDEN = (
    *("Unmistakable", WRONG["short"], CEPHX, base64.b64decode(CEPHX).hex()),
    *(secret.hex() for secret in _PLAIN),
    *(base64.b64encode(secret).decode() for secret in _PLAIN),
    *(repr(secret)[2:-1] for secret in _PLAIN),
)
"""Every form in which one of them could be shown."""

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


def expect_none_in(*texts: str) -> None:
    """Fail if a secret stands in one of the texts, without showing it once more."""
    for text in texts:
        for number, form in enumerate(HIDDEN):
            if form in text:
                around = text.partition(form)[0][-200:]
                pytest.fail(f"form {number} of a secret stands after: {around!r}")


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
    Path("settings").write_text(
        f'node = "gw9"\n[etcd]\nendpoints = ["127.0.0.1:1"]\n[secrets]\nkey_file = "{tmp_path}/key"\n'
        f'[ceph]\nkeyring = "{tmp_path}/keyring"\n[agent]\nruntime_directory = "{tmp_path}/run"\n'
    )
    found = Desk(Terminal(operation(), capsys))
    found.terminal.made.ceph.images[ImageName("rbd", "old")] = FakeImage("old1", 1 << 30)
    monkeypatch.setattr("gateway.cli.plan.look_at_kernel", lambda *_: kernel_with_secrets(tmp_path))
    ARGUMENTS.clear()
    return found


def kernel_with_secrets(path: Path) -> Kernel:
    """The kernel of a node that serves an image to an initiator that proves itself."""
    served = Served(path)
    served.settle()
    state = served.member.kernel.state
    served.member.stop()
    assert any(acl.auth for target in state.targets for tpg in target.tpgs for acl in tpg.initiators.values())
    return state


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


@dataclass
class Served:
    """A whole agent that serves an image to an initiator with CHAP, its log going where a journal's would."""

    path: Path

    def __post_init__(self) -> None:
        spec = replace(spec_of(1), initiators=(ALICE,))
        self.cluster = Cluster(NETWORKS, (spec,))
        key = self.path / "vault.key"
        key.touch(0o600)
        key.write_text(VAULT.hex() + "\n")
        vault, store = load(key), self.cluster.store
        acts.set_initiator(store, vault, ALICE, Credentials("alice", Secret(FILES["one"]), "us", Secret(FILES["own"])))
        acts.set_discovery(store, vault, Credentials("all", Secret(FILES["all"]), "us", Secret(FILES["us"])))
        self.member = Member(self.cluster, "gw1", self.path)
        self.member.start()
        self.member.cycle._open = Opener(key, PREFIX).open
        self.member.membership._key_id = Opener(key, PREFIX).key_id

    def settle(self) -> None:
        """Until nothing is left to be done."""
        self.member.settle()
        assert self.member.kernel.state.targets


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The log of this process, in a file; and systemd's ear, in the same."""
    file = tmp_path / "log"
    with file.open("a") as stream:
        journal.set_up("gw1", stream=stream, environment={})
        monkeypatch.setattr(cycle_module, "notify", lambda **words: stream.write(f"{words}\n"))
        yield file
    structlog.reset_defaults()
    sys.excepthook = sys.__excepthook__


def test_no_failure_of_the_agent_shows_a_secret(tmp_path: Path, said: Path) -> None:
    """Each act of the kernel fails once in each way there is: log, events, reports and etcd stay clean."""
    served = Served(tmp_path)
    member, told = served.member, []
    chronicle = Chronicle(served.cluster.store.events(), member.name)
    errors = (KernelRefused("errno 5"), StorageUnavailable("no answer"), ZeroDivisionError("a bug"))
    failing: dict[str, list[Exception]] = {}

    def before(act: str) -> None:
        left = failing.setdefault(act.partition(" ")[0], list(errors))
        if left:
            raise left.pop(0)

    member.kernel.before = before
    for _ in range(80):
        with suppress(RbdgateError, ZeroDivisionError):
            member.turn()
        told.append(repr(member.report))
    assert {"build", "map_image", "open_path", "set_discovery"} <= set(failing), failing
    served.settle()
    for event in member.events:
        chronicle.tell(event)
    while not chronicle.write() or chronicle._queue:
        continue
    member.stop()
    lines = said.read_text()
    assert lines.count("event=") > 20
    assert "a bug" in lines
    keys = [f"{item.key} {item.value!r}" for item in served.cluster.etcd.range("/").items]
    expect_none_in(lines, *map(repr, member.events), *told, *keys)
    expect_none_in(repr(member.kernel.state), json.dumps(str(member.cycle._open(served.cluster.store.view()))))
    assert "alice" not in lines


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
