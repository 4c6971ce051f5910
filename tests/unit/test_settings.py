"""The settings file: what it may say, and how it is told off."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import BadSettings
from gateway.model import Label
from gateway.settings import DEFAULT_PATH, Settings
from gateway.store.security import Security
from gateway.timers import Timers

LEAST = '[etcd]\nendpoints = ["10.0.0.1:2379"]\n'


def parse(text: str) -> Settings:
    """The text as a file of host gw9."""
    return Settings.parse(text, "rbdgate.toml", short_host_name="gw9")


def test_defaults() -> None:
    """Only the endpoints are needed; all else has a default."""
    settings = parse(LEAST)
    assert settings.node == Label("gw9")
    assert settings.etcd.endpoints == ("10.0.0.1:2379",)
    assert settings.etcd.prefix == "/rbdgate/default/"
    assert settings.ceph.user == "rbdgate"
    assert settings.ceph.conf == Path("/etc/ceph/ceph.conf")
    assert settings.ceph.keyring == Path("/etc/ceph/ceph.client.rbdgate.keyring")
    assert settings.runtime_directory == Path("/run/rbdgate")
    assert settings.watchdog is None
    assert settings.timers == Timers()


def test_everything_can_be_said() -> None:
    """Each documented key is taken as it stands; URLs become HOST:PORT."""
    settings = parse(
        """
        node = "gw1"
        [etcd]
        endpoints = ["http://10.0.0.1:2379", "etcd-2", "http://[fd77::2]:4001/"]
        prefix = "/storage/blue/"
        [ceph]
        conf = "/etc/ceph/blue.conf"
        user = "gate"
        keyring = "/etc/ceph/gate"
        [agent]
        runtime_directory = "/run/blue"
        watchdog = "/dev/watchdog1"
        [timers]
        lease_ttl = 12
        turn_period = 4.5
        """
    )
    assert settings.node == Label("gw1")
    assert settings.etcd.endpoints == ("10.0.0.1:2379", "etcd-2:2379", "[fd77::2]:4001")
    assert settings.etcd.prefix == "/storage/blue/"
    assert (settings.ceph.user, settings.ceph.keyring) == ("gate", Path("/etc/ceph/gate"))
    assert settings.runtime_directory == Path("/run/blue")
    assert settings.watchdog == Path("/dev/watchdog1")
    assert settings.timers == Timers(lease_ttl=12, turn_period=4.5)


def test_how_etcd_is_secured() -> None:
    """All that secures the way to etcd is taken as it stands; an endpoint then is https://, or says nothing."""
    settings = parse(
        """
        [etcd]
        endpoints = ["https://10.0.0.1:2379", "etcd-2"]
        ca_file = "/tls/ca"
        certificate_file = "/tls/crt"
        key_file = "/tls/key"
        user = "gate"
        password_file = "/tls/password"
        """
    )
    assert settings.etcd.endpoints == ("10.0.0.1:2379", "etcd-2:2379")
    assert settings.etcd.security == Security(
        Path("/tls/ca"), Path("/tls/crt"), Path("/tls/key"), "gate", Path("/tls/password")
    )
    assert parse(LEAST).etcd.security == Security()


def test_the_keyring_follows_the_user() -> None:
    """Another user has another keyring by default."""
    assert parse(LEAST + '[ceph]\nuser = "gate"').ceph.keyring == Path("/etc/ceph/ceph.client.gate.keyring")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[etcd]\nendpoint = ['x']", r"unknown key etcd\.endpoint; did you mean etcd\.endpoints\?"),
        (LEAST + "[timer]\nlease_ttl = 9", r"unknown key timer; did you mean timers\?"),
        (LEAST + "[timers]\nlease_tll = 9", r"unknown key timers\.lease_tll; did you mean timers\.lease_ttl\?"),
        (LEAST + "[ceph]\nzebra = 1", r"unknown key ceph\.zebra; known are conf, user, keyring"),
        ("", r"etcd\.endpoints should be a list of strings"),
        ("[etcd]\nendpoints = []", r"etcd\.endpoints should be a list of strings, at least one"),
        ("[etcd]\nendpoints = [1]", r"etcd\.endpoints should be a list of strings"),
        ("[etcd]\nendpoints = ['https://x:1']", r"for TLS name etcd\.ca_file"),
        ("[etcd]\nendpoints = ['x:99999']", "write HOST:PORT"),
        ("[etcd]\nendpoints = ['x y']", "write HOST:PORT"),
        ("etcd = 5", r"etcd should be a table: write \[etcd\]"),
        ("[etcd]\nendpoints = ['http://x:1']\nca_file = '/c'", r"with etcd\.ca_file TLS is spoken"),
        (LEAST + "key_file = '/k'", r"etcd\.certificate_file and etcd\.key_file go together"),
        (LEAST + "key_file = '/k'\ncertificate_file = '/c'", r"etcd\.certificate_file needs etcd\.ca_file"),
        (LEAST + "user = 'gate'", r"etcd\.user and etcd\.password_file go together"),
        (LEAST + "user = ''\npassword_file = '/p'", r"etcd\.user should be a string, found ''"),
        (LEAST + "password = 'x'", r"unknown key etcd\.password; did you mean etcd\.password_file\?"),
        (LEAST + "ca_file = 'ca'", r"etcd\.ca_file should be an absolute path"),
        (LEAST + 'prefix = "rbdgate"', "with a slash at both ends"),
        ("node = 5\n" + LEAST, "node should be a string, found 5"),
        ('node = "a b"\n' + LEAST, "is no name for a node"),
        (LEAST + '[ceph]\nuser = "client.admin"', "write it without `client.`"),
        (LEAST + '[ceph]\nconf = "ceph.conf"', r"ceph\.conf should be an absolute path"),
        (LEAST + "[timers]\nlease_ttl = 5", "lease_ttl 5 is below 8"),
        (LEAST + "[timers]\nlease_ttl = 'x'", "must be a number of seconds"),
        ("node = ", "is no TOML"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    """What may not stand in the file is named, with its file and what to write instead."""
    with pytest.raises(BadSettings, match=reason) as caught:
        parse(text)
    assert str(caught.value).startswith("rbdgate.toml")


def test_which_file(tmp_path: Path) -> None:
    """The option goes before the environment, that before the default, and a missing file is named."""
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('node = "one"\n' + LEAST)
    two.write_text('node = "two"\n' + LEAST)
    environment = {"RBDGATE_SETTINGS": str(two)}
    assert Settings.load(one, environment).node == Label("one")
    assert Settings.load(None, environment).node == Label("two")
    with pytest.raises(BadSettings, match=r"no settings file /nowhere/x\.toml"):
        Settings.load(Path("/nowhere/x.toml"), environment)
    assert str(DEFAULT_PATH) == "/etc/rbdgate/rbdgate.toml"


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is no text is refused with the reason."""
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match="cannot be read"):
        Settings.load(tmp_path / "x", {})


def test_where_http_is_answered() -> None:
    """Anywhere on IPv4 unless an address and a port are named."""
    assert str(parse(LEAST).http) == "0.0.0.0:9927"
    assert str(parse(LEAST + '[http]\naddress = "::1"\nport = 80\n').http) == "[::1]:80"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('address = "gw1"', "http.address 'gw1' is no IP address"),
        ('address = "10.0.0.1:80"', "is no IP address"),
        ("port = 0", "http.port should be a whole number from 1 to 65535, found 0"),
        ("port = 65536", "found 65536"),
        ('port = "9927"', "found '9927'"),
        ("port = true", "found True"),
        ("ports = 1", "did you mean http.port?"),
    ],
)
def test_where_http_cannot_be_answered(line: str, words: str) -> None:
    """What is no address and no port is told off with what is expected."""
    with pytest.raises(BadSettings, match=words.replace("?", r"\?")):
        parse(f"{LEAST}[http]\n{line}\n")
