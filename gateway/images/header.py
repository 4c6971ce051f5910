"""An image's header object: who holds the image, its reservations' text, and the one guarded way to change them.

Two xattrs of `rbd_header.<id>` change together or not at all: `rbdgate.holder` and `pr_info`. A change is decided on
one reply's values and version, and the OSD refuses it unless the object still has that version. The version also
moves for other reasons (krbd takes its lock on this very object), so a refusal says "read again", and only a holder
that changed says that the race is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import rados

from gateway.errors import (
    Conflict,
    LostRace,
    OutcomeUnknown,
    StorageUnavailable,
)
from gateway.images.cluster import CephConnection, storage_errors
from gateway.images.holder import HOLDER_XATTR, Holder
from gateway.images.sequence import next_pr_info
from gateway.model import Label

PR_INFO_XATTR = "pr_info"
_VERSION_MISMATCH = (34, 75)
"""ERANGE: the object is newer; EOVERFLOW: it is older, or gone (PrimaryLogPG::do_osd_ops, assert_ver)."""
_ATTEMPTS = 5


@dataclass(frozen=True)
class HeaderState:
    """Both xattrs as one reply had them, with the object's version of that reply; None for an absent one."""

    holder: Holder | None
    pr_info: bytes | None
    version: int


@dataclass(frozen=True)
class ImageHeader:
    """The header object of one image, by the id that survives a rename."""

    connection: CephConnection
    pool: str
    namespace: str
    image_id: str

    @property
    def object_name(self) -> str:
        """The object's name in the pool (librbd's `util::header_name`)."""
        return f"rbd_header.{self.image_id}"

    def __str__(self) -> str:
        return "/".join(part for part in (self.pool, self.namespace, self.object_name) if part)

    def read(self) -> HeaderState:
        """Both xattrs and their version; NotFound if the image was removed."""
        with self.connection.pool(self.pool, self.namespace) as ioctx, storage_errors(f"reading {self}"):
            # The version is that of this context's last reply, so nothing may come between these two lines.
            found = dict(ioctx.get_xattrs(self.object_name))
            version: int = ioctx.get_last_version()
        holder = found.get(HOLDER_XATTR)
        return HeaderState(None if holder is None else Holder.decode(holder), found.get(PR_INFO_XATTR), version)

    def swap(self, seen: HeaderState, *, holder: Holder, pr_info: bytes | None) -> None:
        """Write both xattrs in one operation if the object is still as `seen`; `pr_info` None leaves that one alone.

        Conflict: the object has changed or is gone, nothing was written. OutcomeUnknown: no answer, and the write
        may land at any later time, but only on the version that was seen.
        """

        def both(operation: rados.WriteOp) -> None:
            operation.set_xattr(HOLDER_XATTR, holder.encode())
            if pr_info is not None:
                operation.set_xattr(PR_INFO_XATTR, pr_info)

        self.write_guarded(seen.version, both)

    def write_guarded(self, version: int, fill: Callable[[rados.WriteOp], None]) -> None:
        """Carry out what `fill` puts into one write operation, if the object still has that version."""
        with self.connection.pool(self.pool, self.namespace) as ioctx, rados.WriteOpCtx() as operation:
            operation.assert_version(version)  # an object that is gone has no version: nothing is brought back to life
            fill(operation)
            try:
                with storage_errors(f"writing {self}", timed_out=OutcomeUnknown):
                    _operate(ioctx, operation, self.object_name)
            except _Mismatch:
                raise Conflict(f"{self} changed since it was read") from None


class _Mismatch(Exception):
    """The object's version is not the one that was asserted."""


def _operate(ioctx: rados.Ioctx, operation: rados.WriteOp, name: str) -> None:
    try:
        ioctx.operate_write_op(operation, name)
    except rados.Error as error:
        if abs(error.errno or 0) in _VERSION_MISMATCH:
            raise _Mismatch from None
        raise


def take_over(
    header: ImageHeader,
    expected: Holder | None,
    mine: Holder,
    advance: Callable[[bytes | None], bytes] = next_pr_info,
) -> bytes:
    """Make `mine` the holder in place of exactly `expected`, and replace `pr_info` by what `advance` makes of it.

    Returns the new `pr_info`; `advance` raises its sequence. It is written even where `mine` is the holder already:
    whatever this node itself had still under way from before fails its comparison from now on.
    `expected` is what the fence was decided on: LostRace if the header names anybody else by now. What `advance`
    raises (Inconsistent, for a text that cannot be read) is passed on, and nothing is written then. OutcomeUnknown:
    Ceph stopped answering in the middle.
    """
    return _change(header, expected, mine, advance)


def commit_pr_info(header: ImageHeader, token: int, node: Label, decide: Callable[[bytes | None], bytes]) -> bytes:
    """Replace `pr_info` by what `decide` makes of it, if the header still names this claim; returns the new text.

    Holder and old text are compared in the operation that writes. LostRace: another holder, or a text that somebody
    else wrote meanwhile. A time-out is resolved by reading; OutcomeUnknown if that is not answered either.
    """
    first: HeaderState | None = None
    wanted = b""
    unanswered: OutcomeUnknown | None = None
    for _ in range(_ATTEMPTS):
        seen = _read_after(header, unanswered)
        if not is_of(seen.holder, token, node):
            raise _lost(header, seen.holder)
        if first is None:
            first, wanted = seen, decide(seen.pr_info)
        elif unanswered and seen.pr_info == wanted:
            return wanted
        elif seen.pr_info != first.pr_info:
            raise LostRace(f"{header}: somebody else changed {PR_INFO_XATTR} while it was to be written")
        try:
            _write_pr_info(header, seen.version, wanted)
        except Conflict:
            continue  # krbd's lock, a snapshot: the object's version moves for other reasons, too
        except OutcomeUnknown as error:
            unanswered = error
            continue
        return wanted
    raise unanswered or _changing(header)


def _write_pr_info(header: ImageHeader, version: int, text: bytes) -> None:
    header.write_guarded(version, lambda operation: operation.set_xattr(PR_INFO_XATTR, text))


def refresh(header: ImageHeader, mine: Holder) -> None:
    """Put this holder's present instances into the header it holds already; LostRace if it does not."""
    seen = header.read().holder
    if not is_of(seen, mine.token, mine.node):
        raise _lost(header, seen)
    _change(header, seen, mine, None)


def release(header: ImageHeader, token: int, node: Label) -> None:
    """Say in the header that this holder has unmapped the image cleanly; LostRace if another one holds it."""
    seen = header.read().holder
    if seen is None or (seen.token, seen.node) != (token, node):
        raise _lost(header, seen)
    if not seen.released:
        _change(header, seen, replace(seen, released=True), None)


def _change(
    header: ImageHeader,
    expected: Holder | None,
    mine: Holder,
    advance: Callable[[bytes | None], bytes] | None,
) -> bytes:
    """Swap until it is done, or until the holder is somebody else; a time-out is resolved by reading."""
    unanswered: OutcomeUnknown | None = None
    pr_info: bytes | None = None
    for _ in range(_ATTEMPTS):
        seen = _read_after(header, unanswered)
        done = seen.holder == mine and (unanswered is not None or advance is None)
        if done and pr_info in (None, seen.pr_info):
            return seen.pr_info or b""
        if seen.holder not in (expected, mine):
            raise _lost(header, seen.holder)
        pr_info = advance(seen.pr_info) if advance else None
        try:
            header.swap(seen, holder=mine, pr_info=pr_info)
        except Conflict:
            continue
        except OutcomeUnknown as error:
            unanswered = error
            continue
        return pr_info if pr_info is not None else seen.pr_info or b""
    raise unanswered or _changing(header)


def _changing(header: ImageHeader) -> Conflict:
    return Conflict(f"{header} changed {_ATTEMPTS} times while it was to be written; trying again later")


def _read_after(header: ImageHeader, unanswered: OutcomeUnknown | None) -> HeaderState:
    try:
        return header.read()
    except StorageUnavailable:
        if unanswered:  # whether that write happened is still open, and the caller must know
            raise unanswered from None
        raise


def is_of(seen: Holder | None, token: int, node: Label) -> bool:
    """Whether the header names that claim of that node as the holder, and not as one that has let go."""
    return seen is not None and not seen.released and (seen.token, seen.node) == (token, node)


def _lost(header: ImageHeader, seen: Holder | None) -> LostRace:
    who = f"{seen.node} with claim {seen.token}" if seen else "nobody"
    return LostRace(f"{header} names {who} as the holder, not this node's claim; decide anew")
