"""One image's persistent reservations as a value: who is registered with which key, and who holds what. Pure.

Rule: a state that exists is consistent. What breaks an invariant is refused with the reason, whoever wrote it: our own
text, another product's, or the kernel's table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum

from gateway.errors import BadInput
from gateway.model import Iqn

MAX_REGISTRATIONS = 512
"""How many registrations an image can have. READ FULL STATUS returns 64 KiB at most, in which so many have room with
names of up to 78 characters; of the longest, of 223, 240 fit."""

NEARLY_FULL = 400
"""From how many registrations on an image's table is called nearly full."""

_ISID = re.compile(r"([0-9a-f]{8}|[0-9a-f]{12})?")


class ReservationType(IntEnum):
    """PERSISTENT RESERVE's TYPE field (SPC-4 table 244), by its code."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8

    @property
    def held_by_all(self) -> bool:
        """Whether every registrant is a holder (SPC-4 clause 5.13.10)."""
        return self in (self.WRITE_EXCLUSIVE_ALL_REGISTRANTS, self.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)

    @property
    def words(self) -> str:
        """The type's name for people, as SPC-4 has it."""
        return self.name.replace("_", " ").lower()


@dataclass(frozen=True, order=True)
class Nexus:
    """An I_T nexus: the initiator's port and the target's (RFC 7143 section 4.4.3).

    `isid` is the session identifier's 12 hex digits; 8 where another product's text told only the first ones; or empty
    for a registration that stands for every session of that initiator at that port (a peer of ALL_TG_PT in LIO).
    """

    initiator: Iqn
    isid: str
    target: Iqn
    tag: int

    def __post_init__(self) -> None:
        if not _ISID.fullmatch(self.isid):
            raise BadInput(f"ISID {self.isid!r} is not 12 (or 8, or no) lower-case hex digits")
        if not 1 <= self.tag <= 65535:
            raise BadInput(f"target portal group tag {self.tag} is out of range: 1 to 65535")

    @property
    def told(self) -> Nexus:
        """The nexus as the kernel can have it: half an ISID is none."""
        return self if len(self.isid) == 12 else replace(self, isid="")

    def __str__(self) -> str:
        session = {0: "any session", 8: f"isid {self.isid}..."}.get(len(self.isid), f"isid {self.isid}")
        return f"{self.initiator} ({session}) at {self.target} tag {self.tag}"


@dataclass(frozen=True)
class Registration:
    """One registered I_T nexus. `since` is when it was first recorded, in seconds since the epoch; 0: not known."""

    nexus: Nexus
    key: int
    all_tg_pt: bool = False
    since: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.key < 1 << 64:
            raise BadInput(f"{self.nexus}: reservation key {self.key:#x} is not 1 to 2**64 - 1")
        if self.since < 0:
            raise BadInput(f"{self.nexus}: recorded {self.since} s before the epoch")


@dataclass(frozen=True)
class Reservation:
    """A held reservation, of the whole logical unit. For the types that all registrants hold, `holder` means nobody:
    it is the one that the kernel keeps for its own book."""

    type: ReservationType
    holder: Nexus
    key: int
    since: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.key < 1 << 64:
            raise BadInput(f"the reservation's key {self.key:#x} is not a number of 64 bits")
        if self.since < 0:
            raise BadInput(f"the reservation was recorded {self.since} s before the epoch")


@dataclass(frozen=True)
class ReservationState:
    """All of it. `sequence` rises with every write of the text, `generation` is PRGENERATION (SPC-4 clause 6.14.2).

    `spc2_holder` is the nexus text of a RESERVE(6) that another product recorded: it is read, and never written anew.
    """

    sequence: int = 1
    generation: int = 0
    registrations: tuple[Registration, ...] = ()
    reservation: Reservation | None = None
    spc2_holder: str | None = field(default=None)

    def __post_init__(self) -> None:
        for what, number in (("sequence", self.sequence), ("generation", self.generation)):
            if not 0 <= number < 1 << 32:
                raise BadInput(f"{what} {number} is not a number of 32 bits")
        if len(self.registrations) > MAX_REGISTRATIONS:
            raise BadInput(
                f"{len(self.registrations)} registrations are more than the {MAX_REGISTRATIONS} there is room for"
            )
        seen: set[Nexus] = set()
        for registration in self.registrations:
            if registration.nexus in seen:
                raise BadInput(f"{registration.nexus} is registered twice")
            seen.add(registration.nexus)
        if self.reservation is not None:
            self._check_reservation(self.reservation)

    def _check_reservation(self, reservation: Reservation) -> None:
        if reservation.type.held_by_all:
            if not self.registrations:
                raise BadInput(f"{reservation.type.words} is held, and nobody is registered")
            return
        holder = self.registration_of(reservation.holder)
        if holder is None:
            raise BadInput(f"{reservation.holder} holds a reservation and is not registered")
        if holder.key != reservation.key:
            raise BadInput(
                f"{reservation.holder} holds with key {reservation.key:#x} and is registered with {holder.key:#x}"
            )

    @property
    def nearly_full(self) -> bool:
        """Whether there is little room left for registrations."""
        return len(self.registrations) >= NEARLY_FULL

    @property
    def hints(self) -> tuple[Nexus, ...]:
        """Where the registrations are of which the kernel's table does not say at which port (ALL_TG_PT)."""
        return tuple(each.nexus.told for each in self.registrations if each.all_tg_pt)

    def registration_of(self, nexus: Nexus) -> Registration | None:
        """The registration of exactly that nexus."""
        return next((each for each in self.registrations if each.nexus == nexus), None)

    @property
    def known_by_name(self) -> ReservationState:
        """The same with each registration one of any session of its initiator at its path.

        Of several sessions' registrations the holder's counts, else the last.
        """
        held = self.reservation
        chosen: dict[Nexus, Registration] = {}
        for each in self.registrations:
            name = replace(each.nexus, isid="")
            before = chosen.get(name)
            if held is None or before is None or before.nexus != held.holder:
                chosen[name] = each
        registrations = tuple(replace(each, nexus=name) for name, each in chosen.items())
        if held is not None:
            held = replace(held, holder=replace(held.holder, isid=""))
        return replace(self, registrations=registrations, reservation=held)

    def without(self, gone: Iterable[Nexus]) -> ReservationState:
        """The same without these registrations; what one of them held is released (SPC-4 clause 5.13.11.2.3)."""
        dropped = frozenset(gone)
        left = tuple(each for each in self.registrations if each.nexus not in dropped)
        reservation = self.reservation
        if reservation is not None:
            if not left or (reservation.holder in dropped and not reservation.type.held_by_all):
                reservation = None
            elif reservation.holder in dropped:
                reservation = replace(reservation, holder=left[0].nexus, key=left[0].key)
        return replace(self, registrations=left, reservation=reservation)
