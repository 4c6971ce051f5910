"""A node's settings file, `/etc/rbdgate/rbdgate.toml`: how this machine reaches etcd and Ceph, and its timers.

    key                  default                                    meaning
    node                 the short host name                        the node's name in the cluster; each node its own
    etcd.endpoints       (needed)                                   list of HOST:PORT, http:// or https://HOST:PORT
    etcd.prefix          /rbdgate/default/                          under which the cluster lives; the same everywhere
    etcd.ca_file         (none)                                     authorities of etcd's certificates; TLS is spoken
    etcd.certificate_file  (none)                                   this node's certificate, and
    etcd.key_file        (none)                                     its key, for root alone
    etcd.user            (none)                                     etcd's user, and
    etcd.password_file   (none)                                     the file with its password, for root alone
    ceph.conf            /etc/ceph/ceph.conf                        Ceph's own configuration file
    ceph.user            rbdgate                                    the cephx user, without `client.`
    ceph.keyring         /etc/ceph/ceph.client.<user>.keyring       the file with that user's key
    secrets.key_file     /etc/rbdgate/secrets.key                   the key that opens CHAP secrets; the same everywhere
    agent.runtime_directory  /run/rbdgate                           what agent and guard share; gone after a boot
    agent.watchdog       (none)                                     /dev/watchdog: it resets a node nobody took down
    http.address         0.0.0.0                                    where the agent answers HTTP; :: is IPv4 and IPv6
    http.port            9927                                       its port: /metrics, /healthz, /readyz, /status
    timers.<name>        as `gateway.timers.Timers`                 seconds; the same on every node

What concerns the cluster as a whole (networks, anchor pool) is not here but in etcd: `rbdgate cluster init`.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from gateway.errors import BadInput, BadSettings
from gateway.model import Address, Label
from gateway.store.keys import DEFAULT_PREFIX, Keys
from gateway.store.security import PLAIN, Security
from gateway.timers import Timers

DEFAULT_PATH = Path("/etc/rbdgate/rbdgate.toml")
RUNTIME_DIRECTORY = Path("/run/rbdgate")
"""Where agent and guard leave each other word unless the settings name another place."""

VARIABLE = "RBDGATE_SETTINGS"
"""The environment variable that names another settings file; the option `--settings` goes before it."""

_ETCD_KEYS = ("endpoints", "prefix", "ca_file", "certificate_file", "key_file", "user", "password_file")
_ETCD_PORT = 2379  # what IANA assigned to etcd's clients


@dataclass(frozen=True)
class EtcdSettings:
    """How etcd is reached: `endpoints` as HOST:PORT, each secured in the same way."""

    endpoints: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    security: Security = PLAIN


@dataclass(frozen=True)
class CephSettings:
    """How Ceph is reached."""

    conf: Path = Path("/etc/ceph/ceph.conf")
    user: str = "rbdgate"
    keyring: Path = Path("/etc/ceph/ceph.client.rbdgate.keyring")


ANYWHERE = IPv4Address(0)


@dataclass(frozen=True)
class HttpSettings:
    """Where the agent answers HTTP."""

    address: Address = ANYWHERE
    port: int = 9927

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """Everything a settings file says, checked."""

    node: Label
    etcd: EtcdSettings
    ceph: CephSettings
    runtime_directory: Path
    timers: Timers
    key_file: Path = Path("/etc/rbdgate/secrets.key")
    watchdog: Path | None = None
    http: HttpSettings = field(default_factory=HttpSettings)

    @classmethod
    def load(cls, path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings file: `path`, else what RBDGATE_SETTINGS names, else the default; BadSettings says why."""
        chosen = path or Path(environment.get(VARIABLE) or DEFAULT_PATH)
        try:
            text = chosen.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BadSettings(
                f"there is no settings file {chosen}; it needs at least [etcd] endpoints (see the README's settings)"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"settings file {chosen} cannot be read: {error}") from None
        return cls.parse(text, str(chosen), short_host_name=socket.gethostname().partition(".")[0])

    @classmethod
    def parse(cls, text: str, where: str, *, short_host_name: str) -> Settings:
        """Check a settings file's text; `where` names it in errors."""
        try:
            return _parse(tomllib.loads(text), short_host_name)
        except tomllib.TOMLDecodeError as error:
            raise BadSettings(f"{where} is no TOML: {error}") from None
        except BadInput as error:
            raise BadSettings(f"{where}: {error}") from None


def _parse(values: Mapping[str, Any], short_host_name: str) -> Settings:
    top = _Table("", values, ("node", "etcd", "ceph", "secrets", "agent", "http", "timers"))
    etcd, ceph = top.table("etcd", _ETCD_KEYS), top.table("ceph", ("conf", "user", "keyring"))
    agent = top.table("agent", ("runtime_directory", "watchdog"))
    names = tuple(field.name for field in fields(Timers))
    timers = top.table("timers", names)
    user = ceph.text("user", "rbdgate")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", user) or user.startswith("client."):
        raise BadSettings(f"ceph.user {user!r} is no cephx user: write it without `client.`, like rbdgate")
    return Settings(
        node=Label(top.text("node", short_host_name)),
        etcd=_etcd(etcd),
        ceph=CephSettings(
            conf=ceph.path("conf", "/etc/ceph/ceph.conf"),
            user=user,
            keyring=ceph.path("keyring", f"/etc/ceph/ceph.client.{user}.keyring"),
        ),
        runtime_directory=agent.path("runtime_directory", str(RUNTIME_DIRECTORY)),
        timers=Timers(**timers.values),
        key_file=top.table("secrets", ("key_file",)).path("key_file", "/etc/rbdgate/secrets.key"),
        watchdog=agent.path("watchdog", "/dev/watchdog") if "watchdog" in agent.values else None,
        http=_http(top.table("http", ("address", "port"))),
    )


def _etcd(table: _Table) -> EtcdSettings:
    security = Security(
        ca_file=table.optional_path("ca_file"),
        certificate_file=table.optional_path("certificate_file"),
        key_file=table.optional_path("key_file"),
        user=table.text("user", "") if "user" in table.values else None,
        password_file=table.optional_path("password_file"),
    )
    return EtcdSettings(
        endpoints=tuple(_endpoint(text, security) for text in table.texts("endpoints")),
        prefix=Keys(table.text("prefix", DEFAULT_PREFIX)).prefix,
        security=security,
    )


def _http(table: _Table) -> HttpSettings:
    default = HttpSettings()
    text = table.text("address", str(default.address))
    try:
        address = ip_address(text)
    except ValueError:
        raise BadSettings(f"http.address {text!r} is no IP address: write one of this machine, 0.0.0.0 or ::") from None
    return HttpSettings(address, table.number("port", default.port, 1, 65535))


@dataclass(frozen=True)
class _Table:
    """One table of the file; a key that is not known is refused with the nearest one that is."""

    name: str
    values: Mapping[str, Any]
    known: tuple[str, ...]

    def __post_init__(self) -> None:
        for key in self.values:
            if key not in self.known:
                near = difflib.get_close_matches(key, self.known, n=1, cutoff=0.5)
                hint = f"did you mean {self._full(near[0])}?" if near else f"known are {', '.join(self.known)}"
                raise BadSettings(f"unknown key {self._full(key)}; {hint}")

    def table(self, key: str, known: tuple[str, ...]) -> _Table:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise BadSettings(f"{key} should be a table: write [{key}]")
        return _Table(key, value, known)

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise BadSettings(f"{self._full(key)} should be a string, found {value!r}")
        return value

    def path(self, key: str, default: str) -> Path:
        text = self.text(key, default)
        if not text.startswith("/"):
            raise BadSettings(f"{self._full(key)} should be an absolute path, found {text!r}")
        return Path(text)

    def number(self, key: str, default: int, least: int, most: int) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise BadSettings(f"{self._full(key)} should be a whole number from {least} to {most}, found {value!r}")
        return value

    def optional_path(self, key: str) -> Path | None:
        return self.path(key, "") if key in self.values else None

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
            raise BadSettings(f"{self._full(key)} should be a list of strings, at least one")
        return tuple(value)

    def _full(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


def _endpoint(text: str, security: Security) -> str:
    """HOST:PORT from that or a URL; the port may be left out. A URL's scheme must be what is spoken."""
    match = re.fullmatch(r"(https?://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?/?", text)
    if match is None or not 0 < int(match[3] or _ETCD_PORT) < 65536:
        raise BadSettings(f"etcd endpoint {text!r}: write HOST:PORT, like 192.0.2.1:2379")
    if match[1] == "https://" and security.ca_file is None:
        raise BadSettings(f"etcd endpoint {text!r}: for TLS name etcd.ca_file, the authorities of etcd's certificates")
    if match[1] == "http://" and security.ca_file is not None:
        raise BadSettings(f"etcd endpoint {text!r}: with etcd.ca_file TLS is spoken; write https://, or HOST:PORT")
    return f"{match[2]}:{match[3] or _ETCD_PORT}"
