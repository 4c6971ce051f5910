"""The files that secure the way to etcd: what is refused, when they are read again, and which passwords are tried."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.credentials import Secret
from gateway.errors import BadSettings
from gateway.store import papers as papers_module
from gateway.store.papers import News, NotRenewed, Papers, Passwords, Renewed
from gateway.store.security import Security, read_identity, read_password
from tests.authority import Authority, replace_file

AUTHORITY = Authority("an authority")
DAY = 86400


@pytest.fixture
def security(tmp_path: Path) -> Security:
    """Files that are as they should be."""
    one = Security(tmp_path / "ca", tmp_path / "crt", tmp_path / "key", "rbdgate", tmp_path / "password")
    replace_file(tmp_path / "ca", AUTHORITY.certificate + Authority("another").certificate, 0o644)
    AUTHORITY.issue("gw1", lasts=timedelta(days=30)).write(tmp_path / "crt", tmp_path / "key")
    replace_file(tmp_path / "password", b"secret\n", 0o600)
    return one


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files each time."""
    monkeypatch.setattr(papers_module, "LOOK", 0.0)


def test_what_fits_is_read(security: Security) -> None:
    """A bundle of authorities, a certificate and its key are an identity that ends with the certificate."""
    told = Papers(security).certificate_expiry
    assert told is not None
    assert abs(told - time.time() - 30 * DAY) < 60
    assert read_identity(Security()) is None
    assert read_identity(Security(ca_file=security.ca_file)) is not None
    assert "PRIVATE" not in repr(read_identity(security))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660])
@pytest.mark.parametrize("name", ["key", "password"])
def test_what_others_can_read_is_refused(security: Security, tmp_path: Path, name: str, mode: int) -> None:
    """A key or a password that group or others may read or write is refused, with the command that mends it."""
    file = tmp_path / name
    file.chmod(mode)
    with pytest.raises(BadSettings, match=rf"{file} could be read by others than root: run `chown .*chmod 600 {file}`"):
        read_identity(security) if name == "key" else read_password(file)


def test_what_somebody_else_owns_is_refused(security: Security, tmp_path: Path) -> None:
    """Nor may it belong to anybody but root."""
    os.chown(tmp_path / "key", 12345, 12345)
    with pytest.raises(BadSettings, match="could be read by others than root"):
        read_identity(security)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("ca", b"", "ca holds no certificate in PEM form"),
        ("ca", AUTHORITY.certificate + b"-----BEGIN CERTIFICATE-----\nAAAA\n", "ca holds no certificate in PEM form"),
        ("crt", b"-----BEGIN", "crt holds no certificate in PEM form"),
        ("key", b"secret", "key holds no key in PEM form without a passphrase"),
        ("key", AUTHORITY.issue("x").key, "key is not the key of the certificate in .*/crt"),
    ],
)
def test_what_does_not_fit_is_refused(
    security: Security, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """Each file that is wrong is named, with what is wrong, and without what it holds."""
    replace_file(tmp_path / name, content, 0o600)
    with pytest.raises(BadSettings, match=words) as caught:
        read_identity(security)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    (tmp_path / name).unlink()
    with pytest.raises(BadSettings, match=f"{tmp_path / name} cannot be read: No such file"):
        read_identity(security)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\n"])
def test_a_password_is_one_line(security: Security, tmp_path: Path, content: bytes) -> None:
    """The newline at its end is no part of it; no line, several, or no text at all are refused."""
    assert read_password(tmp_path / "password") == Secret("secret")
    replace_file(tmp_path / "password", content, 0o600)
    with pytest.raises(BadSettings, match=str(tmp_path / "password")):
        read_password(tmp_path / "password")


@pytest.mark.usefixtures("at_once")
def test_changed_files_are_told_once(security: Security, tmp_path: Path) -> None:
    """What does not fit is told once and changes nothing; what fits is taken; what is the same is nothing new."""
    told: list[News] = []
    papers = Papers(security, tell=told.append)
    first, pair = papers.identity, AUTHORITY.issue("gw1", lasts=timedelta(days=60))
    assert told == []
    replace_file(tmp_path / "crt", pair.certificate, 0o644)
    assert [papers.identity, papers.identity] == [first, first]
    (refused,) = told
    assert isinstance(refused, NotRenewed)
    assert "is not the key" in refused.reason
    replace_file(tmp_path / "key", pair.key, 0o644)
    assert papers.identity is first
    (tmp_path / "key").chmod(0o600)
    second = papers.identity
    assert second is not None
    assert second is not first
    assert [type(news) for news in told] == [NotRenewed, NotRenewed, Renewed]
    pair.write(tmp_path / "crt", tmp_path / "key")
    (tmp_path / "ca").unlink()
    assert papers.identity is second
    assert len(told) == 4


def test_files_are_not_looked_at_all_the_time(security: Security, tmp_path: Path) -> None:
    """Between two looks the identity costs no access to the file system."""
    papers = Papers(security)
    first = papers.identity
    AUTHORITY.issue("gw1").write(tmp_path / "crt", tmp_path / "key")
    assert papers.identity is first


def test_which_passwords_are_tried(security: Security, tmp_path: Path) -> None:
    """The file's first, then the last one that etcd took; one that was refused rests until the file is another."""
    passwords = Passwords(security)
    assert passwords.candidates() == (Secret("secret"),)
    passwords.took(Secret("secret"))
    replace_file(tmp_path / "password", b"newer\n", 0o600)
    assert passwords.candidates() == (Secret("newer"), Secret("secret"))
    passwords.refused()
    assert passwords.candidates() == ()
    replace_file(tmp_path / "password", b"newest\n", 0o600)
    assert passwords.candidates() == (Secret("newest"), Secret("secret"))
    (tmp_path / "password").unlink()
    assert passwords.candidates() == (Secret("secret"),)
    with pytest.raises(BadSettings, match="cannot be read"):
        Passwords(security).candidates()
    passwords.took(Secret("newest"))
    assert "newest" not in repr(passwords.candidates())


def test_a_refused_password_rests_only_a_moment(security: Security, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its rest it is tried again, for etcd may have learned it meanwhile."""
    passwords = Passwords(security)
    passwords.refused()
    assert passwords.candidates() == ()
    monkeypatch.setattr(papers_module, "REST", 0.0)
    assert passwords.candidates() == (Secret("secret"),)
