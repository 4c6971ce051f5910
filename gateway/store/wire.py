"""etcd's gRPC wire: the only file that imports `etcd3` and `grpc`, and the only one that names their errors.

`etcd3` 0.12.0 is used for its messages, stubs and channels. Its own calls, watcher and lock are not: they have
no time-out that holds, and dead streams stay silent (a member that is frozen or cut off). Every stub call here
carries a deadline, so only one family of errors, `grpc.RpcError`, can come out of it.

A process must not fork without exec while a channel is open: the child would hang.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from gateway.errors import BadSettings

# etcd3's generated messages predate protobuf 4 and load on its pure-Python implementation only. The choice is read
# once, at the first import of protobuf, so it stands before it.
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
# A member that goes away is a normal event here and becomes one of our errors; gRPC would print it to stderr as well.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from google.protobuf.internal import api_implementation

if api_implementation.Type() != "python":
    raise ImportError("protobuf was loaded earlier and not in pure Python; import gateway.store.wire first")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the old generated code: no user can do anything
    import etcd3
    import grpc
    from etcd3 import etcdrpc

__all__ = [
    "METADATA",
    "Connection",
    "Message",
    "RpcError",
    "Verdict",
    "describe",
    "etcdrpc",
    "verdict",
]

RpcError = grpc.RpcError

Message: TypeAlias = Any
"""One of etcd's messages: the generated code has no types."""
Stub: TypeAlias = Any
"""The calls of one gRPC service on one channel; likewise."""

METADATA = (("hasleader", "true"),)
"""Sent with every call: a member without a leader refuses at once (etcd, `rpctypes/metadatafields.go`)."""

CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel takes over the connection that hangs
    ("grpc.keepalive_time_ms", 6000),  # under 5 s etcd answers GOAWAY too_many_pings
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),  # without it gRPC 1.85 takes 60 s to notice a dead peer
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.enable_retries", 0),  # a write must never be sent twice behind our back
    ("grpc.enable_http_proxy", 0),  # etcd is spoken to directly, whatever the environment says
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1500),  # also the bound on connecting; the default is 20 s
    ("grpc.max_reconnect_backoff_ms", 1500),  # a member that is back is used again soon; the default is 120 s
    ("grpc.max_receive_message_length", 64 << 20),
)


@dataclass(frozen=True)
class Connection:
    """One endpoint, `HOST:PORT`, with its own channel; it connects at the first call, not before."""

    endpoint: str
    etcd: Any

    @classmethod
    def to(cls, endpoint: str) -> Connection:
        """A connection in plain text, not yet opened; BadSettings if the endpoint is not `HOST:PORT`.

        TLS and a user's token belong here and in `METADATA`: nothing else knows how a channel is secured.
        """
        host, colon, port = endpoint.rpartition(":")
        if not (colon and host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536):
            raise BadSettings(f"etcd endpoint {endpoint!r} is not HOST:PORT; write for example 192.0.2.1:2379")
        return cls(endpoint, etcd3.Etcd3Client(host, int(port), timeout=1.0, grpc_options=CHANNEL_OPTIONS))

    @property
    def kv(self) -> Stub:
        """The stub for ranges and transactions."""
        return self.etcd.kvstub

    @property
    def leases(self) -> Stub:
        """The stub for leases."""
        return self.etcd.leasestub

    @property
    def maintenance(self) -> Stub:
        """The stub for a member's own status."""
        return self.etcd.maintenancestub

    @property
    def members(self) -> Stub:
        """The stub for the list of members."""
        return self.etcd.clusterstub

    @property
    def watches(self) -> Stub:
        """A stub for watch streams."""
        return etcdrpc.WatchStub(self.etcd.channel)

    def close(self) -> None:
        """Close the channel; calls that are under way end as cancelled."""
        self.etcd.close()


class Verdict(Enum):
    """What an error of a call says about the request."""

    NOT_DONE = "nothing was done, another member may do it"
    UNKNOWN = "it may or may not have happened"
    REFUSED = "etcd answered no"
    LEASE_GONE = "the lease does not exist"
    COMPACTED = "what was asked for is too old to be read"


_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
# The same under RESOURCE_EXHAUSTED: etcd's words, and Go's of a request it did not even read.
_REFUSED = ("etcdserver: mvcc: database space exceeded", "grpc: received message larger than max")
# Refused before anything was proposed (etcd `v3rpc/interceptor.go` and `v3_server.go`), or never sent (gRPC's own text;
# should it change, such an error counts as UNKNOWN, which is the safe side).
_NOT_DONE = ("etcdserver: no leader", "etcdserver: too many requests", "failed to connect to all addresses")


def verdict(error: Message) -> Verdict:
    """Judge a `grpc.RpcError` of a unary call: whatever is not known to be harmless is UNKNOWN."""
    details = error.details() or ""
    if "requested lease not found" in details:
        return Verdict.LEASE_GONE
    if "required revision has been compacted" in details:
        return Verdict.COMPACTED
    if error.code() in _REFUSALS or any(text in details for text in _REFUSED):
        return Verdict.REFUSED
    if any(text in details for text in _NOT_DONE):
        return Verdict.NOT_DONE
    return Verdict.UNKNOWN


def describe(error: Message) -> str:
    """The error in a few words, as `UNAVAILABLE (etcdserver: no leader)`."""
    return f"{error.code().name} ({error.details()})"
