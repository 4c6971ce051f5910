"""Who is logged in to a target, as the kernel shows it per ACL (`acls/<iqn>/info`, iscsi_target_configfs.c).

The kernel shows one session an ACL, the newest, and of its connection the address without the port;
`gateway.network.peers` has the ports.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.errors import BadInput
from gateway.lio.configfs import entries, read
from gateway.lio.names import tpg_path
from gateway.lio.removal import tags_of
from gateway.model import Address, Iqn

_STATE = "TARG_SESS_STATE_LOGGED_IN"
_ISID = re.compile(r"ISID: 0x((?:[0-9a-f]{2} ?){6})")
_ADDRESS = re.compile(r"^\s+Address (\S+) TCP", re.MULTILINE)


@dataclass(frozen=True)
class Session:
    """One initiator's session; `isid` is 12 hex digits (RFC 7143 section 11.12.5), `peer` the far end's address."""

    tag: int
    initiator: Iqn
    isid: str
    peer: Address | None


def sessions(iqn: Iqn) -> tuple[Session, ...]:
    """The logged-in sessions of a target, by TPG and initiator; none if there is no such target."""
    return tuple(session for tag in tags_of(iqn) for session in _of_tpg(iqn, tag))


def _of_tpg(iqn: Iqn, tag: int) -> Iterator[Session]:
    acls = f"{tpg_path(iqn, tag)}/acls"
    for name in sorted(entries(acls)):
        session = parse_session(tag, name, read(f"{acls}/{name}/info") or "")
        if session is not None:
            yield session


def parse_session(tag: int, initiator: str, info: str) -> Session | None:
    """The session an ACL's `info` tells of; None if nobody is logged in through it."""
    if _STATE not in info:
        return None
    isid, address = _ISID.search(info), _ADDRESS.search(info)
    try:
        name = Iqn(initiator)
    except BadInput:
        return None  # an ACL of another tool's under a name we would not make
    return Session(tag, name, isid[1].replace(" ", "") if isid else "", _address(address[1]) if address else None)


def _address(text: str) -> Address | None:
    bare = text.strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        return None
