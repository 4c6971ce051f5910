"""Our values as etcd's messages and back (etcd `rpc.proto`, `kv.proto`)."""

from __future__ import annotations

from gateway.store.values import (
    Absent,
    Compare,
    CreateRevisionIs,
    Delete,
    Get,
    KeyValue,
    ModRevisionIs,
    Operation,
    Put,
    TransactionResult,
    ValueIs,
)
from gateway.store.wire import Message, etcdrpc


def encode_key(key: str) -> bytes:
    """A key as etcd has it."""
    return key.encode("utf-8", "surrogateescape")


def key_value(message: Message) -> KeyValue:
    """etcd's `mvccpb.KeyValue` as a value of ours."""
    return KeyValue(
        key=message.key.decode("utf-8", "surrogateescape"),
        value=message.value,
        create_revision=message.create_revision,
        mod_revision=message.mod_revision,
        lease=message.lease,
    )


def compare_message(compare: Compare) -> Message:
    """The compare as etcd's message; a key that does not exist has the revisions 0."""
    message = etcdrpc.Compare
    key = encode_key(compare.key)
    match compare:
        case Absent():
            return message(result=message.EQUAL, target=message.CREATE, key=key, create_revision=0)
        case CreateRevisionIs():
            return message(result=message.EQUAL, target=message.CREATE, key=key, create_revision=compare.revision)
        case ModRevisionIs():
            return message(result=message.EQUAL, target=message.MOD, key=key, mod_revision=compare.revision)
        case ValueIs():
            return message(result=message.EQUAL, target=message.VALUE, key=key, value=compare.value)


def operation_message(operation: Operation) -> Message:
    """The operation as etcd's message."""
    key = encode_key(operation.key)
    match operation:
        case Put():
            put = etcdrpc.PutRequest(key=key, value=operation.value, lease=operation.lease)
            return etcdrpc.RequestOp(request_put=put)
        case Delete():
            return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=key))
        case Get():
            return etcdrpc.RequestOp(request_range=etcdrpc.RangeRequest(key=key))


def prefix_end(prefix: bytes) -> bytes:
    r"""The end of the range of all keys with this prefix; `\0`, etcd's "to the last key", if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def transaction_result(reply: Message) -> TransactionResult:
    """etcd's answer to a transaction; of the single answers only the reads say anything."""
    ranges = [one.response_range for one in reply.responses if one.WhichOneof("response") == "response_range"]
    reads = tuple(key_value(found.kvs[0]) if found.kvs else None for found in ranges)
    return TransactionResult(reply.succeeded, reply.header.revision, reads)
