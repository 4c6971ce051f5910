"""Does etcd answer, quickly, from a quorum, with room left and certificates that last, and is there a cluster in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from gateway.doctor.finding import Finding, Subject, Unread
from gateway.store.values import Member, MemberStatus

ETCD = Subject("etcd")

SLOW_READ = 0.1
"""Seconds for a linearizable read: about a heartbeat of etcd's, ten times what a healthy member takes."""

SLOW_SYNC = 0.1
"""Seconds for a sync of etcd's log: as long as a heartbeat, from where elections begin. (etcd asks for 0.01.)"""

DEFAULT_QUOTA = 2 << 30
"""etcd's bound on its database unless `--quota-backend-bytes` names another."""

FULL = 0.8

_DAY = 86400.0
SOON = 14 * _DAY
"""Seconds that are left of a certificate when it should have been renewed."""


@dataclass(frozen=True)
class EndpointFacts:
    """One endpoint of the settings: the member's word, how many seconds each of some reads took, its metrics."""

    endpoint: str
    status: MemberStatus | Unread
    reads: tuple[float, ...] | Unread
    quota: int | None = None
    fsync_p99: float | None = None
    certificate_ends: float | None = None


@dataclass(frozen=True)
class Certificate:
    """This node's certificate: its file, and when it ends (epoch seconds)."""

    file: str
    ends: float


@dataclass(frozen=True)
class Rights:
    """What this node may not do and should (prefixes it cannot write), and whether it may read outside of them."""

    refused: tuple[str, ...]
    outside: bool


@dataclass(frozen=True)
class EtcdFacts:
    """The endpoints, all members, the alarms (member id, kind), and what cluster is under the prefix, if one is."""

    endpoints: tuple[EndpointFacts, ...]
    members: tuple[Member, ...] | Unread
    alarms: tuple[tuple[int, str], ...] | Unread
    cluster: str | Unread
    call_bound: float
    certificate: Certificate | Unread | None = None
    rights: Rights | Unread | None = None
    now: float = 0.0


def check(facts: EtcdFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    if isinstance(facts.certificate, Unread):
        yield ETCD.error(
            f"the files that secure the way to etcd are not right: {facts.certificate.why}",
            "mend that file; an agent that runs goes on with what it read before, and takes it without a restart",
        )
        return
    if facts.certificate is not None:
        yield _lasting(f"this node's certificate, {facts.certificate.file},", facts.certificate.ends - facts.now, _OWN)
    for endpoint in facts.endpoints:
        yield _answer(endpoint)
        yield from _reads(endpoint, facts.call_bound)
        yield from _sync(endpoint)
        yield from _room(endpoint)
        if endpoint.certificate_ends is not None:
            yield _lasting(f"the certificate of {endpoint.endpoint}", endpoint.certificate_ends - facts.now, _THEIRS)
    yield _quorum(facts)
    yield from _members(facts)
    yield from _leaders(facts)
    yield from _alarms(facts)
    yield from _rights(facts)
    yield _cluster(facts)


def _answer(facts: EndpointFacts) -> Finding:
    if isinstance(facts.status, Unread):
        why = facts.status.why.removeprefix(f"etcd member {facts.endpoint}: ")
        return ETCD.error(
            f"{facts.endpoint} does not answer: {why}",
            "see whether etcd runs there and this node reaches it; gateways go on while a majority of members answers",
        )
    if not facts.status.leader_id:
        return ETCD.error(
            f"{facts.endpoint} knows no leader: it can neither read nor write", "see that a majority of members runs"
        )
    role = "the leader" if facts.status.leader_id == facts.status.member_id else "a follower"
    told = f"{facts.endpoint} answers: etcd {facts.status.version}, {role}"
    if _ends_leases(facts.status.version):
        return ETCD.warning(
            f"{told}; of that version a leader that stood still for longer than the leases may end all of them at once",
            "run 3.4.29, 3.5.11 or newer",
        )
    return ETCD.ok(told)


def _ends_leases(version: str) -> bool:
    """Whether a leader of that version may end leases when it goes on after a stop; what cannot be read may not."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return False
    major, minor, patch = map(int, found.groups())
    mended = {(3, 4): 29, (3, 5): 11}
    return (major, minor) < (3, 4) or patch < mended.get((major, minor), 0)


def _reads(facts: EndpointFacts, bound: float) -> Iterator[Finding]:
    if isinstance(facts.status, Unread):
        return
    if isinstance(facts.reads, Unread):
        yield ETCD.error(f"{facts.endpoint} answers no reads: {facts.reads.why}", "see that a majority of members runs")
        return
    middle = median(facts.reads)
    text = f"a read from {facts.endpoint} takes {middle * 1000:.0f} ms (median of {len(facts.reads)})"
    if middle >= bound / 2:
        yield ETCD.error(
            f"{text}; a call is given up after {bound:g} s", "find out what is slow: the network, its disk, its CPU"
        )
    elif middle >= SLOW_READ:
        yield ETCD.warning(text, "find out what is slow: the network, its disk, its CPU")
    else:
        yield ETCD.ok(text)


def _sync(facts: EndpointFacts) -> Iterator[Finding]:
    if facts.fsync_p99 is None:
        return
    if facts.fsync_p99 == float("inf") or facts.fsync_p99 >= SLOW_SYNC:
        yield ETCD.warning(
            f"{facts.endpoint} took {facts.fsync_p99:g} s or more to write its log, once in a hundred times since it"
            " started: leases may run out for it",
            "give its data a disk of its own, best an SSD",
        )
    else:
        yield ETCD.ok(f"{facts.endpoint} writes its log within {facts.fsync_p99 * 1000:g} ms, 99 times of 100")


def _room(facts: EndpointFacts) -> Iterator[Finding]:
    if isinstance(facts.status, Unread):
        return
    quota = facts.quota or DEFAULT_QUOTA
    used = facts.status.database_bytes
    if used >= FULL * quota:
        yield ETCD.warning(
            f"{facts.endpoint}: its database has {used >> 20} of {quota >> 20} MiB; when it is full no lease can be"
            " granted",
            "compact and defragment etcd (`etcdctl compact`, `etcdctl defrag`), and see who else uses it",
        )


def _quorum(facts: EtcdFacts) -> Finding:
    answering = {status.member_id for e in facts.endpoints if not isinstance(status := e.status, Unread)}
    if isinstance(facts.members, Unread):
        known = len(facts.endpoints)
        if len(answering) > known // 2:
            return ETCD.unread(facts.members, "see what is said of the members")
        return ETCD.error(
            f"{len(answering)} of {known} endpoints answer: no quorum in sight", "bring etcd's members back"
        )
    voters = {member.id for member in facts.members}
    text = f"{len(answering & voters)} of {len(voters)} members answer"
    if len(answering & voters) <= len(voters) // 2:
        return ETCD.error(
            f"{text}: the others are down, or not among the settings' endpoints", "bring etcd's members back"
        )
    if len(voters) < 3:
        return ETCD.warning(f"{text}: with fewer than 3, one that dies stops everything", "run 3 or 5 members")
    if len(voters) % 2 == 0:
        return ETCD.warning(f"{text}: an even number survives no more failures than one fewer", "run 3 or 5 members")
    spare = len(answering & voters) - len(voters) // 2 - 1
    if spare == 0:
        return ETCD.warning(f"{text}: when one more goes, nothing can be claimed", "bring etcd's other members back")
    return ETCD.ok(f"{text}: {spare} more may go")


def _members(facts: EtcdFacts) -> Iterator[Finding]:
    if isinstance(facts.members, Unread):
        return
    answering = {status.member_id for e in facts.endpoints if not isinstance(status := e.status, Unread)}
    silent = any(isinstance(e.status, Unread) for e in facts.endpoints)
    strangers = [member.name or f"{member.id:x}" for member in facts.members if member.id not in answering]
    if strangers and not silent:
        yield ETCD.warning(
            f"the settings name no endpoint of {', '.join(strangers)}: this gateway never asks there",
            "name every member in [etcd] endpoints",
        )


def _leaders(facts: EtcdFacts) -> Iterator[Finding]:
    leaders = {s.leader_id for e in facts.endpoints if not isinstance(s := e.status, Unread) and s.leader_id}
    if len(leaders) > 1:
        yield ETCD.error(
            "the members name different leaders: an election goes on, or the endpoints belong to different clusters",
            "run the doctor again; if it stays, compare `etcdctl endpoint status` of each",
        )
    versions = {s.version for e in facts.endpoints if not isinstance(s := e.status, Unread)}
    if len(versions) > 1:
        yield ETCD.warning(f"the members run different versions: {', '.join(sorted(versions))}", "finish the upgrade")


def _alarms(facts: EtcdFacts) -> Iterator[Finding]:
    if isinstance(facts.alarms, Unread):
        yield ETCD.unread(facts.alarms, "see what is said of the members")
        return
    for member, kind in facts.alarms:
        yield ETCD.error(
            f"member {member:x} raised the alarm {kind}",
            "compact, defragment, then `etcdctl alarm disarm`"
            if kind == "NOSPACE"
            else "replace that member (etcd's documentation, disaster recovery)",
        )
    if not facts.alarms:
        yield ETCD.ok("no alarm is raised")


_OWN = "put a new certificate and its key there; agents take them without a restart"
_THEIRS = "put a new one where etcd's --cert-file and --key-file point; it reads them anew by itself"


def _lasting(what: str, left: float, what_to_do: str) -> Finding:
    if left <= 0:
        return ETCD.error(f"{what} ended {_days(-left)} ago", what_to_do)
    if left < SOON:
        return ETCD.warning(f"{what} ends in {_days(left)}", what_to_do)
    return ETCD.ok(f"{what} lasts {_days(left)}")


def _days(seconds: float) -> str:
    return f"{seconds / _DAY:.0f} days" if seconds >= 2 * _DAY else f"{seconds / 3600:.0f} hours"


def _rights(facts: EtcdFacts) -> Iterator[Finding]:
    if facts.rights is None:
        return
    if isinstance(facts.rights, Unread):
        yield ETCD.unread(facts.rights, "see what is said of the members")
        return
    for prefix in facts.rights.refused:
        yield ETCD.error(
            f"etcd does not let this node read and write under {prefix}",
            f"`etcdctl role grant-permission ROLE --prefix=true readwrite {prefix}` for its user's role",
        )
    if facts.rights.outside:
        yield ETCD.warning(
            "etcd lets this node read keys of others: it asks nobody for a user, or the role is too wide",
            "give its user the role that README names, and `etcdctl auth enable`",
        )
    elif not facts.rights.refused:
        yield ETCD.ok("etcd lets this node read and write the cluster's keys, and no others")


def _cluster(facts: EtcdFacts) -> Finding:
    if isinstance(facts.cluster, Unread):
        return ETCD.warning(
            f"no cluster can be read: {facts.cluster.why}", "see the message, and what is said of the members"
        )
    return ETCD.ok(facts.cluster)
