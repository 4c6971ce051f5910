"""Three real etcd members with mutual TLS and users, and the least that README says a gateway needs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

from gateway.store.client import EtcdClient
from gateway.store.keys import DEFAULT_PREFIX, Keys
from gateway.store.papers import News, Papers
from gateway.store.security import Security
from tests.authority import Authority, Pair, replace_file
from tests.contract.documented import PASSWORD, etcd_commands
from tests.lab.etcd import EtcdCluster, Tls

PREFIX = DEFAULT_PREFIX
EVENTS = Keys(PREFIX).events
ROOT = "no-secret-either"


@dataclass
class Secured:
    """The members, who signed their certificates, and a gateway's files as the settings name them."""

    cluster: EtcdCluster
    authority: Authority
    tls: Tls
    security: Security
    news: list[News] = field(default_factory=list)
    closing: ExitStack = field(default_factory=ExitStack)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The members' endpoints."""
        return self.cluster.endpoints

    def papers(self, security: Security | None = None) -> Papers:
        """The gateway's papers, with what is told of them in `news`."""
        return Papers(security or self.security, tell=self.news.append)

    def client(self, papers: Papers | None = None) -> EtcdClient:
        """A gateway's client; it is closed after the test."""
        client = EtcdClient(self.endpoints, papers=papers or self.papers())
        self.closing.callback(client.close)
        return client

    def show(self, pair: Pair) -> None:
        """Give the gateway another certificate."""
        assert self.security.certificate_file is not None
        assert self.security.key_file is not None
        pair.write(self.security.certificate_file, self.security.key_file)

    def trust(self, *authorities: Authority) -> None:
        """Let the gateway trust these."""
        assert self.security.ca_file is not None
        replace_file(self.security.ca_file, b"".join(one.certificate for one in authorities), 0o644)

    def trust_members(self, *authorities: Authority) -> None:
        """Let the members trust these, of their clients and of each other, which they learn at their next start."""
        replace_file(self.tls.directory / "ca.crt", b"".join(one.certificate for one in authorities), 0o644)
        self.restart_members()

    def restart_members(self) -> None:
        """Kill each member and start it again, the next one when all answer."""
        for member in self.cluster.members:
            member.kill()
            self.cluster.start()

    def settings(self, more: str = "") -> str:
        """The table `[etcd]` of a gateway's settings file, and what follows it."""
        one = self.security
        keys = {
            "ca_file": one.ca_file,
            "certificate_file": one.certificate_file,
            "key_file": one.key_file,
            "user": one.user,
            "password_file": one.password_file,
        }
        lines = [f'{key} = "{value}"' for key, value in keys.items()]
        endpoints = json.dumps([f"https://{endpoint}" for endpoint in self.endpoints])
        return "\n".join(["[etcd]", f"endpoints = {endpoints}", f'prefix = "{PREFIX}"', *lines, more])

    def write_password(self, password: str, mode: int = 0o600) -> None:
        """Give the gateway another password."""
        assert self.security.password_file is not None
        replace_file(self.security.password_file, f"{password}\n".encode(), mode)

    def certify(
        self,
        authority: Authority | None = None,
        *,
        addresses: tuple[str, ...] = (),
        lasts: timedelta = timedelta(days=90),
    ) -> None:
        """Give each member a new certificate, by default one as it should be; members read them at each handshake."""
        for member, endpoint in zip(self.cluster.members, self.endpoints, strict=True):
            # 127.0.0.1 is what members come from when they speak to each other, and etcd holds it against the name.
            named = (*(addresses or (endpoint.partition(":")[0],)), "127.0.0.1")
            pair = (authority or self.authority).issue("etcd", named, lasts)
            pair.write(self.tls.directory / f"{member.name}.crt", self.tls.directory / f"{member.name}.key")

    def ask_for_users(self) -> None:
        """Make role and users as README says, and let etcd ask for them from now on."""
        for arguments in etcd_commands(PREFIX):
            password = ROOT if "root" in arguments else PASSWORD
            self.root(*arguments, said=f"{password}\n" if "--interactive=false" in arguments else None)
        self.cluster.environment["ETCDCTL_USER"] = f"root:{ROOT}"

    def root(self, *arguments: str, said: str | None = None) -> str:
        """Run etcdctl as the administrator; what it printed."""
        done = self.cluster.etcdctl(*arguments, said=said)
        assert done.returncode == 0, done.stderr
        return done.stdout
