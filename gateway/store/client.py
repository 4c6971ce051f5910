"""The etcd client: each call ends within its deadline, and each error says whether something may have happened.

Rules kept here: a deadline on every call, on the monotonic clock; a read is tried on one member after the other
until its deadline; a write that may have happened is never sent again. Usable from any number of threads. All reads
are linearizable. The members' connections are in `channels.py`, a login in `connection.py`, the values in `values.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from tenacity import RetryCallState, Retrying, retry_if_exception

from gateway.errors import LeaseGone, OutcomeUnknown, RbdgateError, StoreRefused, StoreUnavailable
from gateway.store import wire
from gateway.store.channels import Channels
from gateway.store.connection import Connection, LoginFailed
from gateway.store.messages import (
    compare_message,
    encode_key,
    key_value,
    operation_message,
    prefix_end,
    transaction_result,
)
from gateway.store.papers import Papers
from gateway.store.values import (
    Compare,
    KeyValue,
    Lease,
    Member,
    MemberStatus,
    Operation,
    Snapshot,
    TransactionResult,
)
from gateway.store.wire import Message, Verdict, etcdrpc

PAGE = 1000  # keys a range reply may hold: some megabytes at most with our values
PAUSE = 0.1  # seconds before the members are tried anew when all of them refused at once

TWICE = frozenset({Verdict.NOT_DONE, Verdict.UNKNOWN})  # after which a call that does no harm twice is made again
ONCE = frozenset({Verdict.NOT_DONE})  # after which any call is

Call = Callable[[Connection, float], Message]


class Asked(Enum):
    """What is asked of a member, for whoever measures."""

    RANGE = "range"
    TRANSACTION = "transaction"
    KEEPALIVE = "keepalive"
    GRANT = "grant"
    REVOKE = "revoke"
    MEMBER = "member"


@dataclass(frozen=True)
class Request:
    """One request to one member that ended: `failure` is None if it was answered."""

    operation: Asked
    seconds: float
    failure: Verdict | None = None


class EtcdClient:
    """A cluster as one store; `endpoints` are `HOST:PORT`, `call_timeout` and `timeout` seconds.

    `papers` secure the way (none: plain text and no user); clients of one process share them. `call_timeout` bounds one
    call to one member, `timeout` a whole operation over all of them unless the operation is given its own. Errors of
    every operation: StoreUnavailable, StoreRefused; of writes also OutcomeUnknown.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        papers: Papers | None = None,
        call_timeout: float = 1.5,
        timeout: float = 5.0,
        heard: Callable[[Request], None] = lambda _: None,
    ) -> None:
        """`heard` hears of each request to a member when it has ended, and must not block."""
        self._channels = Channels(endpoints, papers or Papers(), call_timeout)
        self._call_timeout = call_timeout
        self._timeout, self._heard = timeout, heard

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints as they were given."""
        return self._channels.endpoints

    @property
    def connection(self) -> Connection:
        """The connection that is asked first now: the last one that answered."""
        return self._channels.preferred

    def avoid(self, connection: Connection) -> None:
        """Ask the next member first from now on, if this one still is the first."""
        self._channels.avoid(connection)

    def holds(self, connection: Connection) -> bool:
        """Whether a connection is still in use: one whose certificate was renewed will be closed."""
        return self._channels.holds(connection)

    def close(self) -> None:
        """Close every channel; calls under way in other threads fail."""
        self._channels.close()

    def range(self, prefix: str, *, keys_only: bool = False, timeout: float | None = None) -> Snapshot:
        """All keys with this prefix at one revision; with `keys_only` the values are empty."""
        deadline = self._deadline(timeout)
        start, end = encode_key(prefix), prefix_end(encode_key(prefix))
        revision = 0
        items: list[KeyValue] = []
        while True:
            page = etcdrpc.RangeRequest(key=start, range_end=end, limit=PAGE, revision=revision, keys_only=keys_only)
            reply = self._range(page, deadline)
            revision = revision or reply.header.revision
            items.extend(key_value(kv) for kv in reply.kvs)
            if not reply.more:
                return Snapshot(revision, tuple(items))
            start = reply.kvs[-1].key + b"\0"

    def get(self, key: str, *, timeout: float | None = None) -> KeyValue | None:
        """One key as it is now; None if it does not exist."""
        reply = self._range(etcdrpc.RangeRequest(key=encode_key(key)), self._deadline(timeout))
        return key_value(reply.kvs[0]) if reply.kvs else None

    def transact(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
    ) -> TransactionResult:
        """Run `success` if all compares hold, else `failure`, in one instant; at most 128 operations each.

        OutcomeUnknown means the transaction may have run: read again, and let the revisions say. It is sent to another
        member only when it is certain that nobody has it. LeaseGone if a `Put` names a lease that is no more.
        """
        request = etcdrpc.TxnRequest(
            compare=[compare_message(compare) for compare in compares],
            success=[operation_message(operation) for operation in success],
            failure=[operation_message(operation) for operation in failure],
        )
        deadline = self._deadline(timeout)
        reply = self._write(
            Asked.TRANSACTION, lambda to, left: to.kv.Txn(request, left, metadata=to.metadata), deadline
        )
        return transaction_result(reply)

    def grant_lease(self, ttl: int, *, timeout: float | None = None) -> Lease:
        """A new lease of `ttl` seconds; it runs from some moment after this call began.

        It is asked for again where no answer came: a grant that was lost binds no key and ends by itself.
        """
        request = etcdrpc.LeaseGrantRequest(TTL=ttl)
        deadline = self._deadline(timeout)
        reply = self._read(
            Asked.GRANT, lambda to, left: to.leases.LeaseGrant(request, left, metadata=to.metadata), deadline
        )
        return Lease(reply.ID, reply.TTL)

    def keepalive_once(self, lease: int, *, timeout: float | None = None) -> int:
        """Send one keepalive to one member; returns the lease's TTL in seconds, LeaseGone if it is no more.

        Whoever counts time from it reads the clock *before* this call. After a failure the next call asks the next
        member, so the caller tries again at once, with a new reading of its clock.
        """
        deadline = time.monotonic() + min(self._call_timeout, self._timeout if timeout is None else timeout)
        try:
            reply = self._once(Asked.KEEPALIVE, lambda to, left: _keepalive(to, lease, left), deadline)
        except _Failure as failure:
            raise _own_error(failure, TWICE) from failure.__cause__
        if reply.TTL <= 0:
            raise LeaseGone(f"etcd does not know lease {lease:x} any more: it ran out or was revoked")
        return int(reply.TTL)

    def revoke_lease(self, lease: int, *, timeout: float | None = None) -> None:
        """End a lease and remove its keys; a lease that is gone already is no error."""
        request = etcdrpc.LeaseRevokeRequest(ID=lease)
        deadline = self._deadline(timeout)
        try:
            self._read(
                Asked.REVOKE,
                lambda to, left: to.leases.LeaseRevoke(request, left, metadata=to.metadata),
                deadline,
            )
        except LeaseGone:
            return

    def member_status(self, endpoint: str) -> MemberStatus:
        """What the member behind this endpoint says of itself, leader or not; StoreUnavailable if it says nothing."""
        connection = self._channels.to(endpoint)
        try:  # without a login: who may not log in is to know all the same which members run
            reply = connection.maintenance.Status(etcdrpc.StatusRequest(), self._call_timeout)
        except wire.RpcError as error:
            raise StoreUnavailable(f"etcd member {endpoint}: {wire.describe(error)}") from error
        return MemberStatus(
            endpoint=endpoint,
            member_id=reply.header.member_id,
            leader_id=reply.leader,
            raft_term=reply.raftTerm,
            revision=reply.header.revision,
            version=reply.version,
            database_bytes=reply.dbSize,
        )

    def members(self) -> tuple[Member, ...]:
        """Every member of etcd's cluster, named in the settings or not."""
        request = etcdrpc.MemberListRequest()
        deadline = self._deadline(None)
        reply = self._read(
            Asked.MEMBER, lambda to, left: to.members.MemberList(request, left, metadata=to.metadata), deadline
        )
        return tuple(Member(member.ID, member.name) for member in reply.members)

    def alarms(self) -> tuple[tuple[int, str], ...]:
        """The alarms that are raised: which member's (by id), and NOSPACE or CORRUPT."""
        request = etcdrpc.AlarmRequest(action=etcdrpc.AlarmRequest.GET)
        deadline = self._deadline(None)
        reply = self._read(
            Asked.MEMBER, lambda to, left: to.maintenance.Alarm(request, left, metadata=to.metadata), deadline
        )
        return tuple((alarm.memberID, etcdrpc.AlarmType.Name(alarm.alarm)) for alarm in reply.alarms)

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _range(self, request: Message, deadline: float) -> Message:
        return self._read(Asked.RANGE, lambda to, left: to.kv.Range(request, left, metadata=to.metadata), deadline)

    def _read(self, asked: Asked, call: Call, deadline: float) -> Message:
        """Make a call that may be made twice, on one member after the other until the deadline."""
        return self._until(deadline, asked, call, TWICE)

    def _write(self, asked: Asked, call: Call, deadline: float) -> Message:
        """Make a call that must not be made twice; it goes to another member only when nobody has it."""
        return self._until(deadline, asked, call, ONCE)

    def _until(self, deadline: float, asked: Asked, call: Call, again: frozenset[Verdict]) -> Message:
        """Make the call until it answers, or fails with a verdict that is not in `again`."""
        attempts = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, _Failure) and error.verdict in again),
            stop=lambda _: time.monotonic() >= deadline,
            wait=lambda state: self._pause(state, deadline),
            reraise=True,
        )
        try:
            return attempts(self._once, asked, call, deadline)
        except _Failure as failure:
            raise _own_error(failure, again) from failure.__cause__

    def _once(self, asked: Asked, call: Call, deadline: float) -> Message:
        """Make the call to the preferred member; _Failure, and another one is preferred, if it does not answer."""
        connection, began = self.connection, time.monotonic()
        try:
            reply = connection.ask(call, lambda: min(self._call_timeout, max(deadline - time.monotonic(), 0.001)))
        except wire.RpcError as error:
            failure = _Failure(connection.endpoint, wire.verdict(error), wire.describe(error))
            failure.__cause__ = error
        except LoginFailed as error:
            failure = _Failure(connection.endpoint, error.verdict, str(error))
        else:
            self._heard(Request(asked, time.monotonic() - began))
            return reply
        if failure.verdict in TWICE:
            self.avoid(connection)
        self._heard(Request(asked, time.monotonic() - began, failure.verdict))
        raise failure

    def _pause(self, state: RetryCallState, deadline: float) -> float:
        """No wait before the next member, a short one before a new round."""
        if state.attempt_number % len(self.endpoints):
            return 0.0
        return min(PAUSE, max(deadline - time.monotonic(), 0.0))


class _Failure(Exception):
    """One call to one member that ended in an error."""

    def __init__(self, endpoint: str, judgement: Verdict, words: str) -> None:
        super().__init__(f"{endpoint}: {words}")
        self.verdict = judgement


def _own_error(failure: _Failure, again: frozenset[Verdict]) -> RbdgateError:
    """The error a caller sees; an unknown outcome matters only to a call that was not to be made twice."""
    match failure.verdict:
        case Verdict.LEASE_GONE:
            return LeaseGone(f"etcd does not know the lease any more: it ran out or was revoked ({failure})")
        case Verdict.LOGIN_NEEDED:
            return StoreRefused(
                "etcd asks for a user: name etcd.user and etcd.password_file in the settings, or use a certificate"
                f" that names the user; {failure}"
            )
        case Verdict.REFUSED:
            return StoreRefused(f"etcd refused the request and did nothing; {failure}")
        case Verdict.UNKNOWN if Verdict.UNKNOWN not in again:
            return OutcomeUnknown(f"no answer to a write that etcd may have done; read again; {failure}")
        case _:
            return StoreUnavailable(f"no etcd member answered in time, the last one asked was {failure}")


def _keepalive(connection: Connection, lease: int, seconds: float) -> Message:
    """One request and one reply on a stream of its own; LeaseGone is told by a TTL of 0, not by an error."""
    requests = iter([etcdrpc.LeaseKeepAliveRequest(ID=lease)])
    stream = connection.leases.LeaseKeepAlive(requests, seconds, metadata=connection.metadata)
    try:
        return next(stream)
    finally:
        stream.cancel()
