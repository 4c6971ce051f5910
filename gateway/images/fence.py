"""The fence: after it, no write of the named client instances can land on an image that somebody else has touched.

A blocklist entry works through the OSD map, and an OSD acts on the newest map it has *seen*. So the entry alone is
no fence: the fencing client waits for the new map itself and then operates on the image, which makes the OSD that
serves that object catch up first. For the image's other objects the same is done by the new holder's own client,
whose map is at least as new: a former holder's write lands before the new holder's first access to that object, or
never.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from gateway.errors import Blocklisted, FenceUnconfirmed, NotFound, RbdgateError
from gateway.images.cluster import CephConnection, storage_errors
from gateway.model import Instance


@dataclass(frozen=True)
class Touch:
    """An object to operate on so that its OSD takes up the newest map: one of the image's, in one of its pools."""

    pool: str
    namespace: str
    object_name: str


def fence(connection: CephConnection, victims: Iterable[Instance], touches: Iterable[Touch], *, expire: float) -> int:
    """Blocklist the victims for `expire` seconds and show that it holds; returns the OSD map's epoch seen after.

    Raises FenceUnconfirmed on any doubt (entries that were added by then stay), and Blocklisted, with nothing
    added, if this client itself is fenced: the monitors would still take its word against others.
    """
    named, objects = frozenset(victims), tuple(touches)
    if connection.instance in named:
        raise FenceUnconfirmed(f"{connection.instance} is this node's own client: it does not fence itself")
    try:
        _touch(connection, objects)
        add_to_blocklist(connection, named, expire=expire)
        connection.await_newest_map()
        _touch(connection, objects)
        present = blocklist(connection)
        epoch = int(json.loads(connection.command("osd stat", format="json"))["epoch"])
    except (FenceUnconfirmed, Blocklisted):
        raise
    except RbdgateError as error:
        raise FenceUnconfirmed(f"the fence of {_listed(named)} is not confirmed: {error}") from error
    missing = named.difference(present)
    if missing:
        raise FenceUnconfirmed(f"the blocklist does not name {_listed(missing)}, which was just added")
    return epoch


def add_to_blocklist(connection: CephConnection, instances: Iterable[Instance], *, expire: float) -> None:
    """Name the instances in the blocklist for `expire` seconds; an entry that is there keeps its own expiry.

    (Seen on Ceph 16.2: the monitors answer with the new time and keep the old one. So nobody can shorten a fence
    by adding it again, krbd's own short entries included, and nobody can renew one before it is gone.)
    """
    for instance in sorted(instances):
        # The caps of `profile rbd` allow this for a single client, ADDRESS/NONCE, and never the removal.
        connection.command("osd blocklist", blocklistop="add", addr=instance.text, expire=float(expire))


def blocklist(connection: CephConnection) -> Mapping[Instance, datetime]:
    """Every blocklisted client instance, with the time its entry runs out."""
    text = connection.command("osd blocklist ls", format="json")
    try:
        # Ceph 16.2 prints a second list (of address ranges) right after the first: not one JSON document.
        entries, _ = json.JSONDecoder().raw_decode(text.lstrip())
        return {
            _normal(entry["addr"]): datetime.strptime(entry["until"], "%Y-%m-%dT%H:%M:%S.%f%z") for entry in entries
        }
    except (ValueError, KeyError, TypeError) as error:
        raise FenceUnconfirmed(f"the blocklist cannot be read ({type(error).__name__})") from None


def _normal(text: str) -> Instance:
    """An instance with its address in its shortest form, so that two spellings of an IPv6 address are equal."""
    host, _, tail = text.rpartition(":")
    if host.startswith("["):
        host = f"[{ipaddress.ip_address(host[1:-1])}]"
    return Instance(f"{host}:{tail}")


def _touch(connection: CephConnection, touches: Iterable[Touch]) -> None:
    for touch in touches:
        with (
            connection.pool(touch.pool, touch.namespace) as ioctx,
            suppress(NotFound),  # the OSD has looked: that is all that is wanted
            storage_errors(f"touching {touch.pool}/{touch.object_name}"),
        ):
            ioctx.stat(touch.object_name)


def _listed(instances: Iterable[Instance]) -> str:
    return ", ".join(str(instance) for instance in sorted(instances)) or "nobody"
