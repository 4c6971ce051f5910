"""etcd's gRPC wire: the only file that imports `etcd3` and `grpc`, and the only one that names their errors.

`etcd3` 0.12.0 is used for its messages and stubs. Its own calls, watcher and lock are not: they have no time-out that
holds, and dead streams stay silent (a member that is frozen or cut off). Every stub call carries a deadline, so only
one family of errors, `grpc.RpcError`, can come out of it.

A process must not fork without exec while a channel is open: the child would hang.
"""

from __future__ import annotations

import os
import warnings
from enum import Enum
from typing import Any, TypeAlias

from gateway.store.security import Identity

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
    import grpc
    from etcd3 import etcdrpc

__all__ = [
    "METADATA",
    "Message",
    "RpcError",
    "Verdict",
    "describe",
    "etcdrpc",
    "forbidden",
    "login_unknown",
    "open_channel",
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


def open_channel(endpoint: str, identity: Identity | None) -> Message:
    """A channel to `HOST:PORT`: TLS with this identity, which holds HOST against the member's certificate, or none."""
    if identity is None:
        return grpc.insecure_channel(endpoint, CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(identity.authorities, identity.key, identity.chain)
    return grpc.secure_channel(endpoint, credentials, CHANNEL_OPTIONS)


class Verdict(Enum):
    """What an error of a call says about the request."""

    NOT_DONE = "nothing was done, another member may do it"
    UNKNOWN = "it may or may not have happened"
    REFUSED = "etcd answered no"
    LOGIN_NEEDED = "nothing was done, for it came without a token that counts"
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


# etcd `v3rpc/rpctypes/error.go`: each is said before anything is done, the last by every member alike as it applies.
_LOGIN_NEEDED = ("invalid auth token", "user name is empty", "revision of auth store is old")


def verdict(error: Message) -> Verdict:
    """Judge a `grpc.RpcError` of a unary call: whatever is not known to be harmless is UNKNOWN."""
    details = error.details() or ""
    if "requested lease not found" in details:
        return Verdict.LEASE_GONE
    if "required revision has been compacted" in details:
        return Verdict.COMPACTED
    if any(text in details for text in _LOGIN_NEEDED):
        return Verdict.LOGIN_NEEDED
    if error.code() in _REFUSALS or any(text in details for text in _REFUSED):
        return Verdict.REFUSED
    if any(text in details for text in _NOT_DONE):
        return Verdict.NOT_DONE
    return Verdict.UNKNOWN


def forbidden(error: Message) -> bool:
    """Whether etcd says that the user may not do this."""
    return bool(error.code() is grpc.StatusCode.PERMISSION_DENIED)


def login_unknown(error: Message) -> bool:
    """Whether etcd says that it asks nobody for a user: authentication is not enabled."""
    return "authentication is not enabled" in (error.details() or "")


# What etcd says, and gRPC and BoringSSL of a channel that cannot be secured, and what it means to an operator.
_MEANINGS = (
    ("etcdserver: permission denied", "the role of this node's user does not have these keys (see README)"),
    ("certificate has expired", "its certificate has expired"),
    ("certificate is not yet valid", "its certificate is not valid yet: compare the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is from no authority in etcd.ca_file"),
    ("Hostname Verification", "its certificate does not carry the name or address by which it is asked"),
    # TLS 1.3: the member's refusal comes after the handshake, as an alert that gRPC does not spell out.
    ("TSI_DATA_CORRUPTED", "it refuses this node's certificate (etcd.certificate_file), or the lack of one"),
    ("Handshake read failed", "it broke off the TLS handshake; it may speak plain text only"),
    (": Socket closed", "it closed the connection at once; it may speak TLS only"),
)


def describe(error: Message) -> str:
    """The error in a few words, as `UNAVAILABLE (etcdserver: no leader)`; what that means comes before them."""
    details = error.details() or ""
    meaning = next((words for text, words in _MEANINGS if text in details), "")
    return f"{meaning + ': ' if meaning else ''}{error.code().name} ({details})"
