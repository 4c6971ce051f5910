"""An operator's change of recorded reservations, and the names that registrations have for it. Pure.

An amendment is made in the operation that swaps the header's holder, of an image that is not exported: nobody can be
registered meanwhile, and whatever a former holder had under way fails its comparison. Made twice it says the same.
(Registrations of initiators that are not allowed are forgotten on the fly: `gateway.reservations.telling`.)
"""

from __future__ import annotations

import re
from dataclasses import replace

from gateway.model import Amendment, AmendmentKind, Iqn
from gateway.reservations import pr_info
from gateway.reservations.state import Nexus, ReservationState

_NUMBER = re.compile(rb"0x[0-9a-fA-F]{1,8}")
_SEQUENCE, _GENERATION = 1, 3
"""The lines of a text that these two stand on."""


def full_name(nexus: Nexus) -> str:
    """A registration's name in an amendment: `INITIATOR,i,SESSION,TARGET,t,0xTAG`.

    SESSION is `0x` and the ISID's digits, as many as are known, or `any`.
    """
    return f"{nexus.initiator},i,{_session(nexus)},{nexus.target},t,0x{nexus.tag:x}"


def name_at(nexus: Nexus, target: Iqn) -> str:
    """The same for an operator: the target is left out where it is the image's own."""
    return f"{nexus.initiator},i,{_session(nexus)},t,0x{nexus.tag:x}" if nexus.target == target else full_name(nexus)


def amended(text: bytes | None, amendment: Amendment) -> bytes:
    """The text of `pr_info` after the change, its sequence and generation raised.

    CLEAR works on any text, also on none; FORGET raises what `pr_info.decode` raises.
    """
    if amendment.kind is AmendmentKind.CLEAR:
        return pr_info.encode(_emptied(text or b""))
    state = pr_info.decode(pr_info.EMPTY if text is None else text)
    gone = (each.nexus for each in state.registrations if full_name(each.nexus) in amendment.nexuses)
    return pr_info.encode(_raised(state.without(gone)))


def known_by_name(text: bytes) -> bytes:
    """The text with every session's registration made one of any session; its generation raised if that changes it.

    For an image that does not enforce ISIDs: LIO itself binds each registration to the session that made it, whatever
    its `enforce_pr_isids` says, but restores one without an ISID for any (__core_scsi3_locate_pr_reg, Linux 6.1).
    Raises what `pr_info.decode` raises.
    """
    state = pr_info.decode(text)
    named = state.known_by_name
    if named == state:
        return text
    return pr_info.encode(replace(named, generation=(state.generation + 1) % 2**32))


def _emptied(text: bytes) -> ReservationState:
    """No reservations, after a text that may be damaged, of a newer version or missing: both counters go on if told."""
    lines = text.split(b"\n", _GENERATION + 1)
    told = [lines[at] if len(lines) > at else b"" for at in (_SEQUENCE, _GENERATION)]
    sequence, generation = (int(word, 16) if _NUMBER.fullmatch(word) else 0 for word in told)
    return _raised(ReservationState(sequence, generation))


def _raised(state: ReservationState) -> ReservationState:
    return ReservationState(
        (state.sequence + 1) % 2**32,
        (state.generation + 1) % 2**32,
        state.registrations,
        state.reservation,
        state.spc2_holder,
    )


def _session(nexus: Nexus) -> str:
    return f"0x{nexus.isid}" if nexus.isid else "any"
