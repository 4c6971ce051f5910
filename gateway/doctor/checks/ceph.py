"""Does Ceph answer, is it the right one, may our user do what is needed and no more, and do the fences hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Subject, Unread
from gateway.model import Instance

CEPH = Subject("ceph")

SLOW = 0.5
"""Seconds for one operation on one object, from where a takeover is felt."""


@dataclass(frozen=True)
class PoolFacts:
    """One pool of the cluster's: whether our user may read and write it, and how long the reading took (seconds)."""

    name: str
    readable: bool | Unread
    writable: bool | Unread
    took: float


@dataclass(frozen=True)
class Connected:
    """What a connection shows: the cluster, its health in a word, our rights, the blocklist, the pools."""

    fsid: str
    health: str | Unread
    may_fence: bool | Unread
    may_administer: bool | Unread
    blocklist: frozenset[Instance] | Unread
    pools: tuple[PoolFacts, ...]


@dataclass(frozen=True)
class CephFacts:
    """How this node reaches Ceph, and what the cluster in etcd says of it.

    `keyring_mode` are the permission bits, and `key_denied` tells that they keep the doctor itself out. `expected_fsid`
    and `fences` (with the node each was of) are etcd's; `own` are the instances this node's kernel works with now.
    """

    user: str
    keyring: str
    keyring_mode: int | Unread
    key_denied: bool
    connected: Connected | Unread
    expected_fsid: str | Unread
    fences: Mapping[Instance, str]
    own: frozenset[Instance] | Unread


def check(facts: CephFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    yield from _keyring(facts)
    if facts.key_denied:
        yield CEPH.unread(Unread("Ceph", f"only root may read {facts.keyring}"), "run the doctor as root")
        return
    if isinstance(facts.connected, Unread):
        yield CEPH.error(
            f"Ceph cannot be asked: {facts.connected.why}",
            "see whether `ceph.conf` names its monitors, whether they are up and in reach, and the user's key",
        )
        return
    yield _cluster(facts, facts.connected)
    yield _health(facts.connected)
    for pool in facts.connected.pools:
        yield from _pool(facts.user, pool)
    yield from _rights(facts.user, facts.connected)
    yield from _fences(facts, facts.connected)


def _keyring(facts: CephFacts) -> Iterator[Finding]:
    if facts.user == "admin":
        yield CEPH.warning(
            "this gateway is client.admin: it may do everything with every pool",
            "make a user of its own, as README's chapter on the cephx user says, and name it in [ceph] user",
        )
    if isinstance(facts.keyring_mode, Unread):
        yield CEPH.unread(facts.keyring_mode, f"the settings' [ceph] keyring names it; it holds client.{facts.user}")
    elif facts.keyring_mode & 0o027:
        yield CEPH.error(
            f"{facts.keyring} has mode {facts.keyring_mode:04o}: others than root may read the key, or write it",
            f"`chmod 600 {facts.keyring}`; if others had a login here, give client.{facts.user} a new key",
        )
    else:
        yield CEPH.ok(f"{facts.keyring} is root's alone")


def _cluster(facts: CephFacts, connected: Connected) -> Finding:
    if isinstance(facts.expected_fsid, Unread):
        return CEPH.ok(f"client.{facts.user} is connected to the Ceph cluster {connected.fsid}")
    if connected.fsid != facts.expected_fsid:
        return CEPH.error(
            f"this node is connected to the Ceph cluster {connected.fsid}, and the gateways' is {facts.expected_fsid}",
            "name the right ceph.conf in [ceph] conf",
        )
    return CEPH.ok(f"client.{facts.user} is connected to the gateways' Ceph cluster {connected.fsid}")


def _health(connected: Connected) -> Finding:
    if isinstance(connected.health, Unread):
        return CEPH.unread(connected.health, "`ceph health detail`")
    if connected.health == "HEALTH_ERR":
        return CEPH.warning("Ceph calls itself HEALTH_ERR", "`ceph health detail`")
    return CEPH.ok(f"Ceph calls itself {connected.health}")


def _pool(user: str, pool: PoolFacts) -> Iterator[Finding]:
    grant = f"`ceph auth caps client.{user}`, with `profile rbd pool={pool.name}` among its osd caps (and all others)"
    unread = next((word for word in (pool.readable, pool.writable) if isinstance(word, Unread)), None)
    if unread is not None:
        yield CEPH.error(f"pool {pool.name}: {unread.why}", "see that the pool exists and its OSDs are up")
    elif not pool.readable or not pool.writable:
        verb = "write" if pool.readable else "read"
        yield CEPH.error(f"client.{user} may not {verb} pool {pool.name}, which holds images of this cluster", grant)
    elif pool.took >= SLOW:
        yield CEPH.warning(
            f"an operation on pool {pool.name} took {pool.took * 1000:.0f} ms",
            "see `ceph health detail`, `ceph osd perf`",
        )
    else:
        yield CEPH.ok(f"client.{user} may read and write pool {pool.name}")


def _rights(user: str, connected: Connected) -> Iterator[Finding]:
    caps = f"`ceph auth caps client.{user} mon 'profile rbd' osd ...`, as README's chapter on the cephx user says"
    if isinstance(connected.may_fence, Unread):
        yield CEPH.unread(connected.may_fence)
    elif not connected.may_fence:
        yield CEPH.error(f"client.{user} may not blocklist a client: this gateway can take nothing over", caps)
    else:
        yield CEPH.ok(f"client.{user} may fence (blocklist a client)")
    if connected.may_administer is True and user != "admin":
        yield CEPH.warning(f"client.{user} may administer the monitors, which no gateway needs", caps)


def _fences(facts: CephFacts, connected: Connected) -> Iterator[Finding]:
    if isinstance(connected.blocklist, Unread):
        yield CEPH.unread(connected.blocklist)
        return
    lifted = {victim: node for victim, node in facts.fences.items() if victim not in connected.blocklist}
    for victim, node in sorted(lifted.items()):
        yield CEPH.error(
            f"{victim} of node {node} is to be fenced and is not on Ceph's blocklist: its old connection may write",
            "a gateway that is up adds it again within a minute; if it stays, see `journalctl -u rbdgate-agent`",
        )
    if facts.fences and not lifted:
        yield CEPH.ok(f"all {len(facts.fences)} fences on record are on Ceph's blocklist")
    if isinstance(facts.own, Unread):
        yield CEPH.unread(facts.own)
        return
    fenced = sorted(facts.own & connected.blocklist)
    if fenced:
        yield CEPH.error(
            f"this node's own kernel client {', '.join(map(str, fenced))} is on Ceph's blocklist: another gateway"
            " fenced it",
            "the agent withdraws and comes back with a new client; if it stays, a mapping hangs: see `rbdgate status`",
        )
