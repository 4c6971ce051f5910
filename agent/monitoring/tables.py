"""An image's recorded reservations in figures. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.reservations import pr_info
from gateway.reservations.state import ReservationState


@dataclass(frozen=True)
class Table:
    """How many registrations, whether the image is reserved, and how many bytes that takes in its header."""

    registrations: int
    reserved: bool
    size: int


def table_of(state: ReservationState) -> Table:
    """The figures of what is recorded."""
    return Table(len(state.registrations), state.reservation is not None, len(pr_info.encode(state)))
