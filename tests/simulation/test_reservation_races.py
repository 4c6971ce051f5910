"""No order of changes, pauses and a takeover loses a reservation that an initiator was told of."""

from __future__ import annotations

import pytest

from tests.simulation.reservation_races import PLANTED, RIGHT, search

SCHEDULES = 3000


def test_nobody_who_was_told_good_is_lost() -> None:
    """In thousands of drawn orders, everybody who heard GOOD is in what the taker restores."""
    found = search(RIGHT, SCHEDULES)
    if found:
        pytest.fail(found, pytrace=False)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    """The same search loses somebody when the bug is in."""
    assert search(PLANTED[bug], SCHEDULES)
