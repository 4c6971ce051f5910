"""The second line of `pr_info`, and no other: its sequence number, by which a former holder's writes are refused.

The text's form is that of SUSE's and PetaSAN's kernels (version 1): ASCII lines, each ended by a newline, and one
NUL at the end. What stands on the other lines is kept byte for byte.
"""

from __future__ import annotations

import re

from gateway.errors import DamagedTable, NewerSchema

_EMPTY = (
    "0x00000001",
    "0x00000001",
    "No SPC-2 Reservation holder",
    "0x00000000",
    "No SPC-3 Reservation holder",
    "0x00000000",
)
EMPTY_PR_INFO = "".join(f"{line}\n" for line in _EMPTY).encode() + b"\0"
"""No reservations: version, sequence, SPC-2 holder, generation, SPC-3 holder, number of registrations."""

_FRAME = re.compile(rb"(0x[0-9a-fA-F]{8})\n(0x[0-9a-fA-F]{8})\n((?:[ -~]*\n){4,})\0")
_LINES_AFTER = 4


def next_pr_info(text: bytes | None) -> bytes:
    """The text with its sequence raised by 1 (modulo 2**32); the empty table, raised likewise, if there is none.

    Raises DamagedTable for a text that is not of this form and NewerSchema for a version other than 1.
    """
    match = _FRAME.fullmatch(EMPTY_PR_INFO if text is None else text)
    if match is None:
        raise DamagedTable(
            "pr_info is damaged: expected the version, the sequence and at least"
            f" {_LINES_AFTER} more lines of ASCII text, ended by one NUL"
        )
    version, sequence, rest = match.groups()
    if int(version, 16) != 1:
        raise NewerSchema(f"pr_info has version {int(version, 16)}; this node understands version 1")
    return b"%b\n0x%08x\n%b\0" % (version, (int(sequence, 16) + 1) % 2**32, rest)


def sequence_of(text: bytes) -> int:
    """The sequence number of a well-formed text."""
    match = _FRAME.fullmatch(text)
    if match is None:
        raise DamagedTable("pr_info is damaged: it has no sequence number")
    return int(match[2], 16)
