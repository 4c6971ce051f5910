"""An operator's change of recorded reservations: the text before and after, whatever the text was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadInput, DamagedTable, NewerSchema
from gateway.images.sequence import next_pr_info
from gateway.model import Amendment, AmendmentKind, Iqn
from gateway.reservations.amending import amended, full_name, known_by_name, name_at
from gateway.reservations.pr_info import EMPTY, decode, encode
from gateway.reservations.state import Nexus, ReservationState
from tests.reservations import NEXUSES, TARGET, states
from tests.unit.test_pr_info import EXAMPLE, STATE

CLEAR = Amendment(AmendmentKind.CLEAR, "operator root@gw1", "the cluster is gone")

quick = settings(max_examples=60)


def forget(*nexuses: Nexus) -> Amendment:
    """The wish that these registrations be forgotten."""
    return Amendment(AmendmentKind.FORGET, "operator root@gw1", "a host is gone", tuple(map(full_name, nexuses)))


def test_clear_empties_any_table_and_its_counters_go_on() -> None:
    """Nobody is registered afterwards, and both counters are one higher than they were."""
    assert decode(amended(EXAMPLE, CLEAR)) == ReservationState(STATE.sequence + 1, STATE.generation + 1)
    wrapped = EXAMPLE.replace(b"0x00000007", b"0xffffffff")
    assert decode(amended(wrapped, CLEAR)).sequence == 0


@pytest.mark.parametrize(
    ("text", "counters"),
    [
        (None, (1, 1)),
        (b"", (1, 1)),
        (b"\0", (1, 1)),
        (b"\xff junk\n\n\n\n", (1, 1)),
        (EXAMPLE[:40], (8, 1)),
        (EXAMPLE[:-1], (8, 19)),
        (EXAMPLE.replace(b"0x00000001\n", b"0x00000002\n", 1), (8, 19)),
        (EXAMPLE.replace(b"\n0x00000007", b"\nsequence"), (1, 19)),
        (EXAMPLE.replace(b"\n0x00000012", b"\n0x100000012"), (8, 1)),
    ],
)
def test_clear_works_on_what_nobody_understands(text: bytes | None, counters: tuple[int, int]) -> None:
    """A damaged, newer or missing text is emptied; a counter that can be read goes on, another begins at 1."""
    state = decode(amended(text, CLEAR))
    assert state == ReservationState(*counters)


@quick
@given(st.binary(max_size=300))
def test_clear_takes_any_bytes(junk: bytes) -> None:
    """Whatever stands there, an empty table is made of it."""
    assert not decode(amended(junk, CLEAR)).registrations


@quick
@given(states(), st.data())
def test_forget_drops_exactly_what_is_named(state: ReservationState, data: st.DataObject) -> None:
    """The others stay as they are, and what a forgotten one held is released; made twice it drops no more."""
    chosen = (
        data.draw(st.sets(st.sampled_from([each.nexus for each in state.registrations])))
        if (state.registrations)
        else set()
    )
    wish = forget(*chosen, Nexus(Iqn("iqn.2000-01.a:nobody"), "", TARGET, 1))
    once = decode(amended(encode(state), wish))
    expected = state.without(chosen)
    counters = (state.sequence + 1) % 2**32, (state.generation + 1) % 2**32
    assert once == replace(expected, sequence=counters[0], generation=counters[1])
    twice = decode(amended(encode(once), wish))
    assert (twice.registrations, twice.reservation) == (once.registrations, once.reservation)


def test_forget_needs_a_text_that_is_understood() -> None:
    """A damaged or newer one is left to `clear`; where there is none, nobody is registered."""
    wish = forget(STATE.registrations[0].nexus)
    with pytest.raises(DamagedTable):
        amended(EXAMPLE[:-1], wish)
    with pytest.raises(NewerSchema):
        amended(EXAMPLE.replace(b"0x00000001\n", b"0x00000002\n", 1), wish)
    state = decode(amended(None, wish))
    assert (state.registrations, state.sequence) == ((), decode(next_pr_info(EMPTY)).sequence)


@quick
@given(st.sets(NEXUSES, min_size=2, max_size=2), st.sampled_from([TARGET, Iqn("naa.0123456789abcdef")]))
def test_each_registration_has_a_name_of_its_own(two: set[Nexus], target: Iqn) -> None:
    """Two that differ in anything have different names, in full and as an operator writes them."""
    one, other = two
    assert full_name(one) != full_name(other)
    assert name_at(one, target) != name_at(other, target)


def test_names_are_read_by_people() -> None:
    """The session is its digits or `any`, and another product's target is named."""
    one = Nexus(Iqn("iqn.1993-08.org.debian:01:a"), "00023d000001", TARGET, 10)
    assert name_at(one, TARGET) == "iqn.1993-08.org.debian:01:a,i,0x00023d000001,t,0xa"
    assert name_at(replace(one, isid=""), TARGET) == "iqn.1993-08.org.debian:01:a,i,any,t,0xa"
    elsewhere = name_at(one, Iqn("iqn.2016-05.com.petasan:00001"))
    assert elsewhere == f"iqn.1993-08.org.debian:01:a,i,0x00023d000001,{TARGET},t,0xa" == full_name(one)


@quick
@given(states())
def test_known_by_name_leaves_one_registration_an_initiator_and_path(state: ReservationState) -> None:
    """Of any session, with the holder's key where it holds, else the last one's; made twice it changes no more."""
    text = known_by_name(encode(state))
    named = decode(text)
    every = [replace(each.nexus, isid="") for each in state.registrations]
    assert sorted(each.nexus for each in named.registrations) == sorted(set(every))
    keys = {name: each.key for name, each in zip(every, state.registrations, strict=True)}
    held = state.reservation
    if held is not None and not held.type.held_by_all:
        keys[replace(held.holder, isid="")] = held.key
    if held is None or not held.type.held_by_all:
        assert {each.nexus: each.key for each in named.registrations} == keys
    else:
        assert {each.key for each in named.registrations} <= {each.key for each in state.registrations}
    assert (named.reservation is None) == (held is None)
    assert (named.generation == state.generation) == (named == state)
    assert known_by_name(text) == text


def test_an_amendment_names_registrations_if_it_forgets() -> None:
    """To forget nothing, or to clear and name something, is no wish."""
    with pytest.raises(BadInput, match="forget names 0"):
        Amendment(AmendmentKind.FORGET, "a", "b")
    with pytest.raises(BadInput, match="clear names 1"):
        Amendment(AmendmentKind.CLEAR, "a", "b", ("x",))
    assert CLEAR.words == "clear, asked for by operator root@gw1: the cluster is gone"
