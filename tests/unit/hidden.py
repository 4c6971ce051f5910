"""Secrets that stand out, in every form in which one could be shown, and an agent that has them all."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.opening import Opener
from gateway.actions import credentials as acts
from gateway.credentials import Credentials, Secret
from gateway.model import Iqn
from gateway.observed import Kernel
from gateway.vault import load
from tests.authority import Authority
from tests.fakes.agent import KEY
from tests.fakes.member import PREFIX, Cluster, Member
from tests.unit.test_plan import NETWORKS, spec_of

ALICE = Iqn("iqn.2026-11.x:alice")
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
VAULT, ANOTHER = bytes(range(200, 232)), bytes(range(100, 132))
"""The key of the secrets, and one that opens none of them."""

PASSWORD = "Unmistakable-Etcd-10"
AUTHORITY = Authority("an authority")
PAIR = AUTHORITY.issue("gw9")
"""What this node shows etcd, whose authority is the same."""

_KEY_LINES = [line for line in PAIR.key.decode().splitlines() if "-----" not in line]
_PLAIN = (
    *(text.encode() for text in (*FILES.values(), *WRONG.values(), PASSWORD)),
    *(VAULT, ANOTHER, KEY.key, base64.b64decode("".join(_KEY_LINES)), b"Unmistakable"),
)
HIDDEN = (
    *("Unmistakable", WRONG["short"], CEPHX, base64.b64decode(CEPHX).hex(), *_KEY_LINES),
    *(secret.hex() for secret in _PLAIN),
    *(base64.b64encode(secret).decode() for secret in _PLAIN),
    *(repr(secret)[2:-1] for secret in _PLAIN),
)
"""Every form in which one of them could be shown."""


def expect_none_in(*texts: str) -> None:
    """Fail if a secret stands in one of the texts, without showing it once more."""
    for text in texts:
        for number, form in enumerate(HIDDEN):
            if form in text:
                around = text.partition(form)[0][-200:]
                pytest.fail(f"form {number} of a secret stands after: {around!r}")


def write_settings(directory: Path, port: int) -> None:
    """A gateway's settings, with what it shows an etcd that answers at that port."""
    (directory / "ca").write_bytes(AUTHORITY.certificate)
    PAIR.write(directory / "tls.crt", directory / "tls.key")
    (directory / "password").touch(0o600)
    (directory / "password").write_text(PASSWORD + "\n")
    (directory / "settings").write_text(
        f'node = "gw9"\n[etcd]\nendpoints = ["127.0.0.1:{port}"]\nuser = "rbdgate"\n'
        f'password_file = "{directory}/password"\nca_file = "{directory}/ca"\n'
        f'certificate_file = "{directory}/tls.crt"\nkey_file = "{directory}/tls.key"\n'
        f'[secrets]\nkey_file = "{directory}/key"\n'
        f'[ceph]\nkeyring = "{directory}/keyring"\n[agent]\nruntime_directory = "{directory}/run"\n'
    )


@dataclass
class Served:
    """A whole agent that serves an image to an initiator with CHAP, its log going where a journal's would."""

    path: Path

    def __post_init__(self) -> None:
        self.spec = replace(spec_of(1), initiators=(ALICE,))
        self.cluster = Cluster(NETWORKS, (self.spec,))
        self.key = self.path / "vault.key"
        self.path.mkdir(exist_ok=True)
        self.write_key()
        self.rotate("one", "own")
        self.protect_discovery()
        self.member = Member(self.cluster, "gw1", self.path)
        self.member.start()
        self.member.cycle._open = Opener(self.key, PREFIX).open
        self.member.membership._key_id = Opener(self.key, PREFIX).key_id

    def write_key(self) -> None:
        """Put the right key where this node looks for it."""
        self.key.touch()
        self.key.chmod(0o600)
        self.key.write_text(VAULT.hex() + "\n")

    def protect_discovery(self) -> None:
        """Have discovery ask for a secret."""
        credentials = Credentials("all", Secret(FILES["all"]), "us", Secret(FILES["us"]))
        acts.set_discovery(self.cluster.store, load(self.key), credentials)

    def rotate(self, own: str, mutual: str) -> None:
        """Give the initiator and its target other secrets, by name."""
        credentials = Credentials("alice", Secret(FILES[own]), "us", Secret(FILES[mutual]))
        acts.set_initiator(self.cluster.store, load(self.key), ALICE, credentials)

    def settle(self) -> None:
        """Until nothing is left to be done."""
        self.member.settle()
        assert self.member.kernel.state.targets


def kernel_with_secrets(path: Path) -> Kernel:
    """The kernel of a node that serves an image to an initiator that proves itself."""
    served = Served(path)
    served.settle()
    state = served.member.kernel.state
    served.member.stop()
    assert any(acl.auth for target in state.targets for tpg in target.tpgs for acl in tpg.initiators.values())
    return state
