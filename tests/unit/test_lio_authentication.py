"""The order in which authentication is written: at no moment does anybody get in who should not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.credentials import Credentials, Secret
from gateway.errors import KernelRefused
from gateway.lio import authentication, configfs, creation, names
from gateway.model import Iqn

ONE = Credentials("alice", Secret("first-secret-1"))
ROTATED = Credentials("alice", Secret("second-secret2"))
MUTUAL = Credentials("alice", Secret("first-secret-1"), "us", Secret("targets-secret"))
IQN, INITIATOR = Iqn("iqn.2026-11.x:disk"), Iqn("iqn.2026-11.x:alice")


class Kernel:
    """A directory in place of configfs: writes are kept in order, and each is followed by a look at who gets in."""

    def __init__(self, root: Path, *, own: bool) -> None:
        self.root, self.own = root, own
        self.wrote: list[str] = []
        self.allowed: list[tuple[str, ...] | None] = []
        """After each write, what the ACL asks for: None for nothing, else its files; empty: nobody gets in."""
        self.tpg = root / "iscsi" / str(IQN) / "tpgt_1"
        (self.tpg / "attrib").mkdir(parents=True)
        (self.tpg / "lun/lun_0").mkdir(parents=True)
        (self.tpg / "attrib/authentication").write_text("0")
        self.discovery = root / "iscsi/discovery_auth"
        self._auth(self.discovery)
        (self.discovery / "enforce_discovery_auth").write_text("0")

    def make_acl(self, path: str) -> None:
        """What the kernel does at `mkdir` of an ACL."""
        acl = Path(path)
        if acl.parent.name == "acls" and not acl.exists():
            for folder in ("attrib", "lun_0"):
                (acl / folder).mkdir(parents=True)
            if self.own:
                (acl / "attrib/authentication").write_text("-1")
            self._auth(acl / "auth")
        else:
            acl.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, value: str) -> None:
        """Write, then look."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(value)
        self.wrote.append(path.rpartition("/")[2])
        self.allowed.append(self.asks())

    def asks(self) -> tuple[str, ...] | None:
        """What the initiator is asked for now."""
        acl = self.tpg / "acls" / str(INITIATOR)
        if not acl.exists():
            return ()
        own = (acl / "attrib/authentication").read_text() if self.own else "-1"
        inherited = (self.tpg / "attrib/authentication").read_text()
        return _set(acl / "auth") if (inherited if own == "-1" else own) == "1" else None

    def _auth(self, path: Path) -> None:
        path.mkdir(parents=True)
        for name in ("userid", "password", "userid_mutual", "password_mutual"):
            (path / name).write_text("")


def _set(path: Path) -> tuple[str, ...]:
    texts = {name: (path / name).read_text() for name in ("userid", "password", "userid_mutual", "password_mutual")}
    return tuple(text for text in texts.values() if text and not text.startswith("NULL"))


@pytest.fixture(params=[True, False], ids=["own", "inherited"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel whose ACLs have an attribute of their own, and one whose ACLs have not."""
    found = Kernel(tmp_path, own=request.param)
    for module in (names, authentication, creation):
        for name, folder in (("ISCSI", "iscsi"), ("DISCOVERY", "iscsi/discovery_auth")):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str(tmp_path / folder))
        monkeypatch.setattr(module, "write", found.write, raising=False)
        monkeypatch.setattr(module, "make_if_missing", found.make_acl, raising=False)
    monkeypatch.setattr(authentication, "write_secret", lambda path, secret: found.write(path, secret.plain))
    return found


def give(credentials: Credentials | None) -> None:
    """Let the initiator in with these."""
    creation.set_acls(IQN, {INITIATOR: credentials}, (), demanded=credentials is not None)


def files(credentials: Credentials) -> tuple[str, ...]:
    """What the ACL's files hold then."""
    mutual = (credentials.mutual_user, credentials.mutual_secret.plain) if credentials.mutual_secret else ()
    return (credentials.user, credentials.secret.plain, *mutual)


def test_a_new_acl_is_never_open(kernel: Kernel) -> None:
    """From the moment it is made until its credentials are whole nobody gets in."""
    give(ONE)
    assert None not in kernel.allowed
    assert kernel.asks() == files(ONE)


@pytest.mark.parametrize("later", [ROTATED, MUTUAL])
def test_a_change_is_never_open(kernel: Kernel, later: Credentials) -> None:
    """Rotated, made mutual and back: authentication is asked for after each single write."""
    give(ONE)
    give(later)
    assert kernel.asks() == files(later)
    give(ONE)
    assert kernel.asks() == files(ONE)
    assert None not in kernel.allowed


def test_what_is_right_is_not_written_again(kernel: Kernel) -> None:
    """A second time only what costs nothing is written: no secret."""
    give(MUTUAL)
    kernel.wrote.clear()
    give(MUTUAL)
    assert not {"userid", "password", "userid_mutual", "password_mutual"} & set(kernel.wrote)


def test_it_ends_with_the_credentials_last(kernel: Kernel) -> None:
    """Cleared, the initiator gets in without, and nothing of the secrets is left."""
    give(MUTUAL)
    give(None)
    assert kernel.asks() is None
    assert _set(kernel.tpg / "acls" / str(INITIATOR) / "auth") == ()


def test_an_open_acl_closes_before_its_credentials_come(kernel: Kernel) -> None:
    """An initiator that logged in without is asked from the first write on."""
    give(None)
    assert kernel.asks() is None
    kernel.allowed.clear()
    give(ONE)
    asked = kernel.allowed.index(()) if () in kernel.allowed else 0
    assert None not in kernel.allowed[asked:]


def test_discovery_closes_before_its_credentials_come(kernel: Kernel) -> None:
    """Set: enforced first; cleared: not enforced first; closed: enforced with what there is."""
    authentication.set_discovery(MUTUAL)
    assert kernel.wrote[0] == "enforce_discovery_auth"
    assert (kernel.discovery / "enforce_discovery_auth").read_text() == "1"
    assert _set(kernel.discovery) == files(MUTUAL)
    kernel.wrote.clear()
    authentication.set_discovery(ROTATED)
    assert "enforce_discovery_auth" not in kernel.wrote
    assert _set(kernel.discovery) == files(ROTATED)
    kernel.wrote.clear()
    authentication.set_discovery(None)
    assert kernel.wrote[0] == "enforce_discovery_auth"
    assert _set(kernel.discovery) == ()
    authentication.close_discovery()
    assert (kernel.discovery / "enforce_discovery_auth").read_text() == "1"


def test_an_error_does_not_tell_the_secret(tmp_path: Path) -> None:
    """What the kernel refuses is told by its file."""
    with pytest.raises(KernelRefused, match=r"cannot write .*password") as refused:
        configfs.write_secret(str(tmp_path / "none/password"), Secret("first-secret-1"))
    assert "first-secret" not in str(refused.value)
