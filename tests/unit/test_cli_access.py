"""Groups, CHAP and discovery's credentials on the command line: what is set is shown but for its secrets."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import pytest

from gateway.cli import main as program
from gateway.model import ImageName, Iqn
from gateway.reservations.pr_info import encode
from gateway.reservations.state import Nexus, Registration, ReservationState
from gateway.store.values import Put
from gateway.vault import Vault
from tests.fakes.agent import KEY
from tests.fakes.operation import operation
from tests.unit.test_cli import Terminal

ALICE, BOB = "iqn.2026-11.x:alice", "iqn.2026-11.x:bob"
SECRETS = {"one": "first-secret-1", "two": "second-secret2", "own": "targets-secret", "long": "longer-than-windows"}


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Two gateways that serve two images, and a directory with a file for each secret."""
    for name, secret in SECRETS.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(secret + "\n")
    monkeypatch.chdir(tmp_path)
    found = Terminal(operation(), capsys)
    for number in (1, 2):
        assert found.run(f"image create rbd/disk{number} --size 1G --paths 1") == 0
    return found


def test_groups_of_initiators(terminal: Terminal) -> None:
    """Members may use what names their group; a group that is named is not deleted; a denial never does nothing."""
    assert terminal.json(f"initiator group create hosts {ALICE} {ALICE}")["members"] == [ALICE]
    assert terminal.run(f"initiator group create hosts {BOB}") == 1
    assert "there is a group hosts already" in terminal.error
    assert terminal.json("initiator allow rbd/disk1 --group hosts")["groups"] == ["hosts"]
    assert terminal.json(f"initiator group add hosts {BOB}")["members"] == [ALICE, BOB]
    assert terminal.json("initiator list rbd/disk1") == [
        {"iqn": iqn, "group": "hosts", "chap": "none"} for iqn in (ALICE, BOB)
    ]
    assert terminal.json("initiator group list") == [
        {"name": "hosts", "members": [ALICE, BOB], "images": ["rbd/disk1"]}
    ]
    for line, said in (
        ("initiator group delete hosts", "group hosts is used by image rbd/disk1"),
        (f"initiator deny rbd/disk1 {BOB}", "as a member of hosts: remove it there"),
        (f"initiator group remove hosts {BOB}x", "is not in group hosts"),
        ("initiator allow rbd/disk1 --group none", "there is no group none"),
        ("initiator deny rbd/disk2 --group hosts", "group hosts is not allowed at image rbd/disk2; allowed are: none"),
    ):
        assert terminal.run(line) == 1
        assert said in terminal.error
    assert terminal.run(f"initiator allow rbd/disk1 {BOB} --group hosts") == 2
    assert terminal.run("initiator allow rbd/disk1") == 2
    assert terminal.json(f"initiator group remove hosts {BOB}")["members"] == [ALICE]
    assert terminal.json("initiator deny rbd/disk1 --group hosts")["groups"] == []
    assert terminal.run("initiator group delete hosts") == 0
    assert terminal.json("initiator group list") == []


def test_chap_of_an_initiator(terminal: Terminal) -> None:
    """Set one-way, made mutual, shown, cleared: the secrets open with the key and are never printed."""
    assert terminal.run(f"initiator allow rbd/disk1 {ALICE}") == 0
    shown = terminal.json(f"initiator chap set {ALICE} --user alice --secret-file one")
    assert shown == {"iqn": ALICE, "chap": {"user": "alice", "mutual_user": None, "key_id": KEY.key_id}}
    assert terminal.json("initiator list rbd/disk1")[0]["chap"] == "one-way"
    line = f"initiator chap set {ALICE} --user alice --secret-file two --mutual-user us --mutual-secret-file own"
    assert terminal.json(line)["chap"]["mutual_user"] == "us"
    assert terminal.json("initiator list rbd/disk1")[0]["chap"] == "mutual"
    store = terminal.made.store
    sealed = store.view().credentials[Iqn(ALICE)]
    opened = KEY.open(sealed, store.keys.initiator(Iqn(ALICE)))  # type: ignore[arg-type]
    assert (opened.secret.plain, opened.mutual_secret and opened.mutual_secret.plain) == (
        SECRETS["two"],
        SECRETS["own"],
    )
    assert terminal.run(f"initiator chap show {ALICE}") == 0
    assert terminal.out.startswith(f"{ALICE} proves itself as alice, and the target as us (mutual); sealed with key ")
    assert terminal.json(f"initiator chap clear {ALICE}") == {"iqn": ALICE, "chap": None}
    for line in (f"initiator chap clear {ALICE}", f"initiator chap show {ALICE}"):
        assert terminal.run(line) == 1
        assert f"no CHAP credentials are set for {ALICE}" in terminal.error


def test_discoverys_credentials(terminal: Terminal) -> None:
    """Set, shown and cleared, each seen at every gateway."""
    shown = terminal.json("cluster discovery-auth set --user all --secret-file one")
    assert shown == {"discovery": {"user": "all", "mutual_user": None, "key_id": KEY.key_id}}
    terminal.made.agents[1].stuck = True
    assert terminal.run("cluster discovery-auth clear --timeout 3") == 3
    assert "gw2's discovery does not ask for it yet" in terminal.error
    assert terminal.run("cluster discovery-auth show") == 1
    assert terminal.run("cluster discovery-auth clear") == 1
    assert "discovery asks for no credentials" in terminal.error


def test_a_change_counts_when_the_holder_has_it(terminal: Terminal) -> None:
    """Whoever holds an image that the initiator may use is waited for, and nobody else."""
    assert terminal.run(f"initiator allow rbd/disk1 {ALICE}") == 0
    holder = terminal.json("image show rbd/disk1")["holder"]
    for agent in terminal.made.agents:
        agent.stuck = str(agent.node) == holder
    assert terminal.run(f"initiator chap set {ALICE} --user alice --secret-file one --timeout 3") == 3
    assert f"{holder} does not serve image rbd/disk1 with this change yet" in terminal.error
    assert terminal.run(f"initiator chap set {BOB} --user bob --secret-file one --timeout 3") == 0
    assert terminal.run(f"initiator chap set {ALICE} --user alice --secret-file two --no-wait") == 0


def test_nothing_is_sealed_that_a_live_gateway_cannot_open(terminal: Terminal) -> None:
    """A gateway without the key, or with another one, is named; nothing is stored."""
    terminal.made.agents[1].stuck = True
    terminal.key = Vault(bytes(32))
    assert terminal.run(f"initiator chap set {ALICE} --user alice --secret-file one") == 1
    assert f"this node has key {terminal.key.key_id}, gw1 has key {KEY.key_id}, gw2 has key" in terminal.error
    assert terminal.made.store.view().credentials == {}


def test_what_cannot_be_read_is_said_and_can_be_set_anew(terminal: Terminal) -> None:
    """A damaged value and a damaged group are named, and a damaged value gives way to a new one."""
    keys = terminal.made.store.keys
    terminal.made.etcd.transact([], [Put(keys.initiator(Iqn(ALICE)), b"garbage")])
    assert terminal.run(f"initiator chap show {ALICE}") == 1
    assert "cannot be read" in terminal.error
    assert "set them anew" in terminal.error
    assert terminal.run(f"initiator chap set {ALICE} --user alice --secret-file one") == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--user a --secret-file none", "the secret cannot be read: none: No such file"),
        ("--user a --secret-file short", "the secret has 5 characters"),
        ("--user a --secret-file bytes", "holds no text"),
        ("--user a", "nobody is there to be asked for the secret"),
        ("--user a --secret-file one --mutual-user b --mutual-secret-file one", "must differ"),
        ("--user NULL --secret-file one", "which LIO takes for none"),
    ],
)
def test_secrets_that_are_refused(terminal: Terminal, line: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot work is refused for initiators and for discovery, with nothing stored."""
    Path("short").write_text("short")
    Path("bytes").write_bytes(b"\xff" * 20)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    for command in (f"initiator chap set {ALICE}", "cluster discovery-auth set"):
        assert terminal.run(f"{command} {line}") == 1
        assert said in terminal.error
    assert terminal.run(f"initiator chap set {ALICE} --user a --secret-file one --mutual-secret-file two") == 2
    view = terminal.made.store.view()
    assert (view.credentials, view.discovery) == ({}, None)


def test_a_person_types_each_secret_twice(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal the secret is asked for without echo; two that differ are refused."""
    typed = iter(["first-secret-1", "first-secret-1", "first-secret-1", "first-secret-2"])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert terminal.run(f"initiator chap set {ALICE} --user alice") == 0
    assert terminal.run(f"initiator chap set {ALICE} --user alice") == 1
    assert "the two are not the same" in terminal.error


def test_warnings(terminal: Terminal) -> None:
    """A file that others can read and a secret that Windows cannot take are warned of, and taken."""
    Path("one").chmod(0o644)
    assert terminal.run(f"initiator chap set {ALICE} --user alice --secret-file one") == 0
    assert "one can be read by others than its owner" in terminal.out
    assert terminal.run(f"initiator chap set {ALICE} --user alice --secret-file long") == 0
    assert "Windows' initiator does not take that" in terminal.out


def test_no_secret_is_ever_shown(terminal: Terminal) -> None:
    """Through every command and failure here: not on the screen, not in what agents are told, not in etcd, not in the
    log of events."""
    heard = ""
    for line in (
        f"initiator allow rbd/disk1 {ALICE}",
        f"initiator chap set {ALICE} --user alice --secret-file one --mutual-user us --mutual-secret-file own",
        f"initiator chap set {ALICE} --user alice --secret-file one --mutual-user us --mutual-secret-file one",
        f"initiator chap set {ALICE} --user NULL --secret-file two",
        f"initiator chap set {ALICE} --user alice --secret-file long --timeout 0",
        "cluster discovery-auth set --user all --secret-file two",
        f"initiator chap show {ALICE}",
        "cluster discovery-auth show",
        "initiator list rbd/disk1",
        "cluster show",
        "status",
        "events",
        "image show rbd/disk1",
    ):
        for form in ("", " --json"):
            terminal.run(line + form)
            heard += terminal.out + terminal.error
    heard += repr(terminal.made.store.view()) + repr(terminal.made.said)
    heard += "".join(repr(item) for item in terminal.made.etcd.range("").items)
    heard += repr(terminal.made.ceph)
    for secret in SECRETS.values():
        assert secret not in heard


def test_the_key_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key is made once, and only its id is ever printed."""
    settings, path = tmp_path / "rbdgate.toml", tmp_path / "secrets.key"
    settings.write_text(f'node = "gw1"\n[etcd]\nendpoints = ["127.0.0.1:1"]\n[secrets]\nkey_file = "{path}"\n')
    words = ("--settings", str(settings))
    assert program.main(("secrets", "show-key-id", *words)) == 1
    assert "there is no key of the secrets on this node" in capsys.readouterr().err
    assert program.main(("secrets", "create-key", *words)) == 0
    made = capsys.readouterr().out
    assert program.main(("secrets", "show-key-id", *words)) == 0
    key_id = capsys.readouterr().out.strip()
    assert program.main(("secrets", "create-key", *words)) == 1
    assert "is there already" in capsys.readouterr().err
    assert key_id in made
    assert path.read_text().strip() not in made + key_id


def test_denying_the_registered(terminal: Terminal) -> None:
    """It needs the word and a reason, and says the way."""
    assert terminal.run(f"initiator allow rbd/disk1 {ALICE}") == 0
    spec, _ = terminal.made.store.image(ImageName.parse("rbd/disk1"))
    one = Registration(Nexus(Iqn(ALICE), "00023d000001", spec.identity.iqn, 1), 0xABC)
    terminal.made.ceph.pr_info[spec.image_id] = encode(ReservationState(registrations=(one,)))
    assert terminal.run(f"initiator deny rbd/disk1 {ALICE}") == 1
    assert f"{ALICE} with key 0xabc; have it unregistered first" in terminal.error
    assert terminal.run(f"initiator deny rbd/disk1 {ALICE} --clear-registration") == 2
    assert "--clear-registration needs a --reason" in terminal.error
    denied = terminal.json(f"initiator deny rbd/disk1 {ALICE} --clear-registration --reason scrapped")
    assert denied["initiators"] == []
    assert terminal.json("events rbd/disk1")[-1]["why"] == "scrapped"
