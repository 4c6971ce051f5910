"""Addresses that others claim: announced again at once, but not without end, and said once."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent.announcer import Schedule
from agent.defence import REMEMBERED, SAY_AGAIN, Defence
from gateway.events import Event, Kind
from gateway.model import Address
from gateway.network import Assertion

OURS, OTHER = ipaddress.ip_address("10.1.0.101"), ipaddress.ip_address("fd77:1::101")
STRANGER, NODE = "52:54:00:00:00:01", "02:00:00:00:00:02"


def made(schedule: Schedule, until: float, step: float = 0.25) -> list[tuple[float, Address]]:
    """The announcements that a thread which looks every `step` seconds makes, from 0."""
    found = []
    for tick in range(int(until / step) + 1):
        while (address := schedule.take(tick * step)) is not None:
            found.append((tick * step, address))
    return found


def test_an_address_that_came_up_is_announced_again_four_times() -> None:
    """After 1, 2, 5 and 10 s, and then no more."""
    schedule = Schedule()
    schedule.came_up(OURS, 0.0)
    assert made(schedule, 30.0) == [(1.0, OURS), (2.0, OURS), (5.0, OURS), (10.0, OURS)]
    assert schedule.next is None


def test_a_claim_is_answered_at_once_and_once_more() -> None:
    """An address that was quiet for long is announced the moment another claims it, and a second later."""
    schedule = Schedule()
    schedule.was_claimed(OURS, 0.0)
    assert schedule.next == 0.0
    assert made(schedule, 30.0) == [(0.0, OURS), (1.0, OURS)]


def test_a_claim_right_after_an_announcement_is_not_forgotten() -> None:
    """Within the second after an announcement it waits for the second to be over: the last word is ours."""
    schedule = Schedule()
    schedule.was_claimed(OURS, 0.0)
    assert schedule.take(0.0) == OURS
    assert schedule.take(1.0) == OURS
    schedule.was_claimed(OURS, 1.25)
    assert [when for when, _ in made(schedule, 30.0)] == [2.0, 3.0]


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=200))
def test_no_flood_of_claims_makes_a_flood_of_answers(claims: list[float]) -> None:
    """However many claims there are: at most one announcement a second, and one after the last claim."""
    schedule, answers = Schedule(), list[float]()
    for claim in sorted(claims):
        while schedule.next is not None and schedule.next <= claim:
            answers.append(schedule.next)
            schedule.take(schedule.next)
        schedule.was_claimed(OURS, claim)
    while schedule.next is not None:
        answers.append(schedule.next)
        schedule.take(schedule.next)
    assert all(later - earlier >= 1.0 - 1e-9 for earlier, later in itertools.pairwise(answers))
    assert max(claims) <= answers[-1] <= max(claims) + 2.0


class Listener:
    """A defence with what it asks for and says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.defended: list[Address] = []
        self.told: list[Event] = []
        self.thread = Defence(
            self.contested, lambda: {NODE}, self.defended.append, lambda: self.now, tell=self.told.append
        )

    @staticmethod
    def contested(heard: Iterable[tuple[str, Assertion]]) -> tuple[tuple[str, Assertion], ...]:
        """Only OURS is here."""
        return tuple((interface, said) for interface, said in heard if said.address == OURS)

    def hear(self, *said: Assertion) -> list[str]:
        """Tell it; what it logs."""
        with structlog.testing.capture_logs() as lines:
            self.thread.answer([("eth1", each) for each in said])
        return [f"{line['event']} {line['mac']} {line['address']} {line['interface']}" for line in lines]


def test_a_stranger_is_named_once_a_minute_and_answered_each_time() -> None:
    """The log has the MAC, the address and the interface; the answer is given to every claim."""
    listener = Listener()
    claim = Assertion(OURS, STRANGER)
    line = f"address claimed by a stranger {STRANGER} {OURS} eth1"
    assert listener.hear(claim, Assertion(OTHER, STRANGER)) == [line]
    assert listener.hear(claim) == []
    assert listener.hear(Assertion(OURS, NODE)) == [
        line.replace("a stranger", "another gateway").replace(STRANGER, NODE)
    ]
    assert [(event.kind, event.text, event.why.split()[0]) for event in listener.told] == [
        (Kind.ADDRESS, f"{OURS} was claimed by a stranger; announced it again", STRANGER),
        (Kind.ADDRESS, f"{OURS} was claimed by another gateway; announced it again", NODE),
    ]
    listener.now = SAY_AGAIN
    assert listener.hear(claim) == [line]
    assert listener.defended == [OURS] * 4


@pytest.mark.parametrize("count", [REMEMBERED * 2])
def test_made_up_claims_cost_no_memory(count: int) -> None:
    """Whoever sends another MAC each time fills the log, and nothing else."""
    listener = Listener()
    for number in range(count):
        listener.hear(Assertion(OURS, f"{number:012x}"))
    assert len(listener.thread._said) <= REMEMBERED
