"""Any persistent reservations, for tests: strategies of states and their parts, and a state of any size."""

from __future__ import annotations

from hypothesis import strategies as st

from gateway.model import Iqn
from gateway.reservations.state import Nexus, Registration, Reservation, ReservationState, ReservationType

TARGET = Iqn("iqn.2026-11.io.rbdgate:disk1")
LONGEST = Iqn("iqn.2026-11.io.rbdgate:" + "x" * 200)

INITIATORS = st.one_of(
    st.sampled_from([Iqn("iqn.1993-08.org.debian:01:a"), Iqn("eui.0123456789abcdef"), LONGEST]),
    st.text("abcxyz0189.:-", min_size=1, max_size=30).map(lambda name: Iqn(f"iqn.1991-05.com.microsoft:{name}")),
)
TARGETS = st.sampled_from([TARGET, Iqn("naa.0123456789abcdef"), LONGEST])
_FIRST = st.one_of(st.sampled_from(["40000137", "00023d00"]), st.text("0123456789abcdef", min_size=8, max_size=8))
_SECOND = st.one_of(st.sampled_from(["0000", "0001"]), st.text("0123456789abcdef", min_size=4, max_size=4))
ISIDS = st.one_of(st.just(""), _FIRST, st.builds(str.__add__, _FIRST, _SECOND))
NEXUSES = st.builds(Nexus, INITIATORS, ISIDS, TARGETS, st.one_of(st.integers(1, 3), st.integers(1, 65535)))
KEYS = st.integers(1, 2**64 - 1)
SINCE = st.one_of(st.just(0), st.integers(1, 2**63))
REGISTRATIONS = st.builds(Registration, NEXUSES, KEYS, st.booleans(), SINCE)
NUMBERS = st.integers(0, 2**32 - 1)


@st.composite
def states(draw: st.DrawFn, most: int = 8) -> ReservationState:
    """Any state with at most so many registrations; one held by all registrants may name a stranger as its holder."""
    registrations = draw(st.lists(REGISTRATIONS, max_size=most, unique_by=lambda each: each.nexus).map(tuple))
    reservation = None
    if draw(st.booleans()) and registrations:
        kind = draw(st.sampled_from(ReservationType))
        since = draw(SINCE)
        one = draw(st.sampled_from(registrations))
        reservation = Reservation(kind, one.nexus, one.key, since)
        if kind.held_by_all and draw(st.booleans()):
            reservation = Reservation(kind, draw(NEXUSES), draw(st.one_of(st.just(0), KEYS)), since)
    spc2_holder = draw(st.sampled_from([None, f"{LONGEST},i,0x0,{TARGET},t,0x1", ",i,0xffFF,,t,0x0"]))
    return ReservationState(draw(NUMBERS), draw(NUMBERS), registrations, reservation, spc2_holder)


def crowd(count: int) -> tuple[Registration, ...]:
    """So many registrations whose lines are as long as any."""
    nexuses = (Nexus(LONGEST, f"{number:012x}", LONGEST, 65535) for number in range(count))
    return tuple(Registration(nexus, 2**64 - 1, all_tg_pt=True, since=10**19 - 1) for nexus in nexuses)
