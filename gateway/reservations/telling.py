"""What the agent tells the guard about an export's reservations: a text in the file that the kernel writes to.

So it comes in one order with the kernel's own, one at a time of each image, and is answered when it was acted on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gateway.errors import BadInput, Unavailable
from gateway.model import Iqn

RESTORED = b"restored\n\0"
"""The export was built anew, its table restored from what is recorded, whoever wrote that last: the agent left it in
`/run` (`RuntimeDirectory.write_restored`), where a guard of another version does not look."""

_WITHOUT, _FORGET = b"without", b"forget"


def leaving(initiators: Iterable[Iqn]) -> bytes:
    """The text that says whose registrations are not to be recorded any more: they go with their ACLs."""
    return b" ".join((_WITHOUT, *(str(iqn).encode() for iqn in sorted(initiators)))) + b"\n\0"


def leaving_in(text: bytes) -> frozenset[Iqn]:
    """The initiators that such a text names; none of any other text."""
    word, *names = text.strip(b"\n\0").split(b" ")
    if word != _WITHOUT:
        return frozenset()
    try:
        return frozenset(Iqn(name.decode("ascii")) for name in names)
    except (BadInput, UnicodeDecodeError):
        return frozenset()


def forgetting(nexuses: Iterable[str]) -> bytes:
    """The text that says which stale registrations, by full name, are not to be recorded any more."""
    return b" ".join((_FORGET, *(name.encode() for name in sorted(nexuses)))) + b"\n\0"


def forgotten_in(text: bytes) -> frozenset[str]:
    """The names in such a text; none in any other text."""
    word, *names = text.strip(b"\n\0").split(b" ")
    return frozenset(name.decode(errors="replace") for name in names) if word == _FORGET else frozenset()


def tell(dbroot: Path, serial: str, text: bytes) -> None:
    """Write a text to the trap, and return when the guard has acted on it; Unavailable if it went away meanwhile."""
    place = dbroot / "pr" / f"aptpl_{serial}"
    try:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, text)
        finally:
            os.close(handle)
    except OSError as error:
        raise Unavailable(f"the guard did not take a word about reservations ({place}): {error.strerror}") from None
