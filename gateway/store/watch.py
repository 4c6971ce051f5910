"""A prefix followed for as long as wanted: a listing first, then its changes, and on any doubt a listing again.

What ends in a new listing: a stream that broke, a member without a leader, a member that gave no sign of life,
compaction. So no change is ever missed, though several may be told by one listing; a reader that applies what comes
is right at the end. Nothing is to be decided on a watch alone: whoever acts reads linearizably first.

Progress requests are the sign of life (etcd 3.4 and newer). Their reply is no point to resume from, so it is
only counted as heard.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from gateway.errors import StoreRefused, StoreUnavailable
from gateway.store import wire
from gateway.store.client import EtcdClient
from gateway.store.connection import Connection, LoginFailed, Token
from gateway.store.messages import encode_key, key_value, prefix_end
from gateway.store.values import KeyValue, Snapshot
from gateway.store.wire import Message, Verdict, etcdrpc

PROGRESS = etcdrpc.WatchRequest.FromString(b"\x1a\x00")
"""etcd's `WatchProgressRequest`, field 3 of `WatchRequest` in `rpc.proto` since 3.4; etcd3 does not know it."""

AGAIN = 0.1  # seconds before a watch that failed is begun anew


@dataclass(frozen=True)
class Written:
    """A key got this value."""

    item: KeyValue


@dataclass(frozen=True)
class Removed:
    """A key was deleted, by hand or with its lease, at this revision."""

    key: str
    revision: int


@dataclass(frozen=True)
class Changes:
    """What happened next, in order, up to `revision`."""

    revision: int
    events: tuple[Written | Removed, ...]


@dataclass(frozen=True)
class Listing:
    """Everything there is now: what was told before is void. `reason` says why it was listed."""

    snapshot: Snapshot
    reason: str


class Watch:
    """An iterator over one prefix, for one thread; `close()` may come from any other.

    After `pulse` seconds without a reply a member is asked for a sign of life, and `silence` seconds later it
    is given up; `listing_timeout` bounds one listing. The iteration waits for ever while etcd does not answer. It
    ends after `close()`, and raises StoreRefused if etcd forbids the prefix.
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        *,
        pulse: float = 0.5,
        silence: float = 2.0,
        listing_timeout: float = 5.0,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._pulse = pulse
        self._silence = silence
        self._listing_timeout = listing_timeout
        self._closed = threading.Event()
        self._stream: _Stream | None = None
        self._refused = False

    def close(self) -> None:
        """End the iteration; returns at once. A listing that is under way is let finish within its own bound."""
        self._closed.set()
        if self._stream is not None:
            self._stream.wake()

    def __iter__(self) -> Iterator[Listing | Changes]:
        reason = "first listing"
        while not self._closed.is_set():
            try:
                snapshot = self._client.range(self._prefix, timeout=self._listing_timeout)
                yield Listing(snapshot, reason)
                yield from self._follow(snapshot.revision)
            except StoreUnavailable as error:
                reason = str(error)
            except _Doubt as doubt:
                reason = str(doubt)
            self._closed.wait(AGAIN)

    def _follow(self, revision: int) -> Iterator[Changes]:
        """The changes after `revision` as one member tells them, until `close()` or a _Doubt."""
        connection = self._client.connection
        try:
            token = connection.log_in(None, lambda: self._silence)
        except LoginFailed as error:
            self._client.avoid(connection)
            raise _MemberDoubt(f"{connection.endpoint}: {error}") from error
        self._stream = stream = _Stream(connection, self._prefix, revision + 1, self._silence)
        try:
            while not self._closed.is_set():
                reply = stream.receive(self._pulse)
                if reply is not None:
                    yield from _changes(reply, revision)
                    self._refused = False
                if not self._client.holds(connection):
                    raise _Doubt(f"{connection.endpoint}: the connection was renewed")
        except _MemberDoubt:
            self._client.avoid(connection)
            raise
        except StoreRefused as error:
            # etcd 3.4 says of a token it has forgotten what it says of a forbidden prefix: the listing will tell.
            self._doubt_token(connection, token, error)
        finally:
            stream.close()

    def _doubt_token(self, connection: Connection, token: Token | None, error: StoreRefused) -> None:
        """Log in anew after the first refusal in a row; StoreRefused after another one, or where nobody logs in."""
        if token is None or self._refused:
            raise error
        self._refused = True
        try:
            connection.log_in(token, lambda: self._silence)
        except LoginFailed as failure:
            raise _MemberDoubt(f"{connection.endpoint}: {failure}") from failure
        raise _Doubt(str(error))


class _Doubt(Exception):
    """Changes may have been missed: list again."""


class _MemberDoubt(_Doubt):
    """The same, and another member should be asked."""


def _changes(reply: Message, revision: int) -> Iterator[Changes]:
    """What a reply tells that is newer than `revision`; a reply that only confirms tells nothing."""
    if reply.compact_revision:
        raise _Doubt(f"compacted up to revision {reply.compact_revision}")
    if reply.canceled:
        raise StoreRefused(f"etcd refused the watch: {reply.cancel_reason or 'it gives no reason'}")
    new = [event for event in reply.events if event.kv.mod_revision > revision]
    if new:
        yield Changes(new[-1].kv.mod_revision, tuple(_change(event) for event in new))


def _change(event: Message) -> Written | Removed:
    item = key_value(event.kv)
    return Removed(item.key, item.mod_revision) if event.type == event.DELETE else Written(item)


class _Stream:
    """One watch call to one member, read by a thread of its own so that the wait for a reply can be bounded."""

    def __init__(self, connection: Connection, prefix: str, start_revision: int, silence: float) -> None:
        self._endpoint = connection.endpoint
        self._silence = silence
        self._asked: float | None = time.monotonic()  # when the first request without a reply was sent
        self._requests: SimpleQueue[Message | None] = SimpleQueue()
        self._replies: SimpleQueue[Message | Exception | None] = SimpleQueue()
        key = encode_key(prefix)
        create = etcdrpc.WatchCreateRequest(key=key, range_end=prefix_end(key), start_revision=start_revision)
        self._requests.put(etcdrpc.WatchRequest(create_request=create))
        self._call = connection.watches.Watch(iter(self._requests.get, None), metadata=connection.metadata)
        self._reader = threading.Thread(target=self._read, name="etcd-watch-reader", daemon=True)
        self._reader.start()

    def receive(self, seconds: float) -> Message | None:
        """The next reply; None if none came in time or `wake` was called; StoreRefused or _MemberDoubt at the end.

        Silence asks for a sign of life; when that stays unanswered the member is given up.
        """
        try:
            reply = self._replies.get(timeout=seconds)
        except Empty:
            reply = self._silent()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _silent(self) -> Exception | None:
        now = time.monotonic()
        asked = self._asked  # read once: the reader clears it
        if asked is None:
            self._asked = now
            self._requests.put(PROGRESS)
        elif now - asked > self._silence:
            return _MemberDoubt(f"{self._endpoint}: no sign of life for {self._silence} s")
        return None

    def wake(self) -> None:
        """End a wait in `receive`."""
        self._replies.put(None)

    def close(self) -> None:
        """Cancel the call and end both its threads; it does not wait for the member."""
        self._requests.put(None)
        self._call.cancel()
        self._reader.join(1.0)

    def _read(self) -> None:
        try:
            for reply in self._call:
                self._asked = None
                self._replies.put(reply)
        except wire.RpcError as error:
            words = f"{self._endpoint}: {wire.describe(error)}"
            refused = wire.verdict(error) is Verdict.REFUSED
            self._replies.put(StoreRefused(words) if refused else _MemberDoubt(words))
        else:
            self._replies.put(_MemberDoubt(f"{self._endpoint}: the member ended the watch"))
