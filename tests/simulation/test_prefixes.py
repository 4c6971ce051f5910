"""Every prefix of a plan: who carries a takeover or a withdrawal out is stopped before each of its calls in turn."""

from __future__ import annotations

import pytest

from tests.simulation.schedule import replay
from tests.simulation.stage import Violation
from tests.simulation.words import NOT_REACHED

BEGIN = ["world seed=1 nodes=3 images=1 locks=0 news=0", "run 4"]
SITUATIONS = {
    "takeover": (["slow disk1 40", "run 1", "slow disk1 0", "holder crash"], "*", 40),
    "move": (["holder drain"], "*", 40),
    "withdrawal": (["holder lose requests"], "holder", 3),
}
"""What makes somebody act, who, and how many calls of workers are in it at least."""

AFTERWARDS = "run 32"
"""Until the write that was under way in the takeover has landed or been refused."""

MOST = 200


@pytest.mark.parametrize("fault", ["hold", "kill", "crash"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_plan_may_end_before_any_of_its_calls(situation: str, fault: str) -> None:
    """Held for long, killed or without power there: no invariant breaks, and in the end everything is served."""
    lines, who, least = SITUATIONS[situation]
    for number in range(1, MOST):
        try:
            told = replay([*BEGIN, *lines, f"{who} work {number} {fault}", AFTERWARDS])
        except Violation as violation:
            pytest.fail(str(violation), pytrace=False)
        if NOT_REACHED in told:
            break
    assert least < number < MOST
