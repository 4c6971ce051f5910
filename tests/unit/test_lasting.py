"""What has lasted: nothing is moved for what was seen for a moment only."""

from __future__ import annotations

import pytest

from agent.lasting import FAILING_LONG, LINKS_STEADY, UNGUARDED_LONG, Lasting
from agent.workers import Workers
from gateway.errors import FenceUnconfirmed, KernelRefused, RbdgateError
from gateway.model import Label, Move
from gateway.placement import Lately
from gateway.timers import Timers
from tests.unit.test_placement import GW1, GW2, A, B, image, view_of, word

DELAY = Timers().failback_delay
VIEW = view_of([image(1)], nodes=(word(GW1), word(GW2)), held={1: GW1})


class Clock:
    """A time that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def idle() -> Workers:
    """Workers that have nothing to do."""
    return Workers(slots=1, retry_first=1, retry_last=1, on_done=lambda: None)


def at(lasting: Lasting, now: float, view: object = VIEW) -> Lately:
    """What has lasted at that time."""
    return lasting.lately(view, idle(), now)  # type: ignore[arg-type]


def test_nodes_settle_after_the_delay() -> None:
    """A node counts as steady after a moment and as settled after the whole delay, and both begin with the agent."""
    lasting = Lasting(Timers())
    assert at(lasting, 100) == Lately()
    assert at(lasting, 100 + LINKS_STEADY) == Lately(steady={GW1, GW2})
    assert at(lasting, 100 + DELAY) == Lately(steady={GW1, GW2}, settled={GW1, GW2})
    unclean = lasting.lately(VIEW, idle(), 100 + DELAY, clean=False)
    assert unclean == Lately(steady={GW1, GW2}), "moved for evenness though its release would cost all images a fence"


def test_networks_that_become_steady_end_the_wait() -> None:
    """The next turn comes when a change of networks has lasted, and not a whole period later."""
    lasting = Lasting(Timers())
    assert lasting.next_change(100, 5) == 5
    at(lasting, 100)
    assert lasting.next_change(101, 5) == LINKS_STEADY - 1
    assert lasting.next_change(101, 0.5) == 0.5
    assert lasting.next_change(100 + LINKS_STEADY, 5) == 5


def test_what_no_node_can_export_goes_round_slower_each_time() -> None:
    """An image that was given away for failing here, and came back to fail again, stays twice as long the next time."""
    clock, lasting = Clock(), Lasting(Timers())
    workers = Workers(slots=1, retry_first=0.001, retry_last=0.001, on_done=lambda: None, clock=clock)

    def fail() -> None:
        raise KernelRefused("no memory")

    def fails_for(seconds: float) -> bool:
        clock.now += seconds
        workers.submit("a", fail)
        while workers.busy():
            pass
        return "a" in lasting.lately(VIEW, workers, clock.now).failing

    assert not fails_for(1)
    assert fails_for(FAILING_LONG)
    workers.forget_failures_but(set())
    assert not fails_for(1)
    assert not fails_for(FAILING_LONG)
    assert fails_for(FAILING_LONG)


def test_a_network_that_changed_begins_anew() -> None:
    """A node that lost a network, or got it back, is neither steady nor settled again at once; others stay so."""
    lasting = Lasting(Timers())
    at(lasting, 100)
    changed = view_of([image(1)], nodes=(word(GW1), word(GW2, (A,))), held={1: GW1})
    at(lasting, 100 + DELAY)
    assert at(lasting, 101 + DELAY, changed) == Lately(steady={GW1}, settled={GW1})
    assert at(lasting, 102 + DELAY) == Lately(steady={GW1}, settled={GW1})
    assert word(GW2).networks == (A, B)


def test_an_operators_move_puts_off_what_is_moved_by_itself() -> None:
    """While an operator moves something the delay begins anew; a move of the cluster's own changes nothing."""
    lasting = Lasting(Timers())
    at(lasting, 100)
    own = view_of([image(1)], nodes=(word(GW1), word(GW2)), held={1: GW1}, moves={1: Move(GW2, 5, "drained")})
    assert at(lasting, 100 + DELAY, own).settled == {GW1, GW2}
    asked = view_of([image(1)], nodes=(word(GW1), word(GW2)), held={1: GW1}, moves={1: Move(Label("gw2"), 5)})
    assert not at(lasting, 101 + DELAY, asked).settled
    assert not at(lasting, 100 + 2 * DELAY).settled
    assert at(lasting, 101 + 2 * DELAY).settled == {GW1, GW2}


@pytest.mark.parametrize(("error", "fails"), [(KernelRefused("no memory"), True), (FenceUnconfirmed("open"), False)])
def test_an_image_fails_only_in_this_nodes_kernel(error: RbdgateError, fails: bool) -> None:
    """What another node could do better is told after a while; what it could not, such as a fence, never."""
    clock = Clock()
    workers = Workers(slots=1, retry_first=0.001, retry_last=0.001, on_done=lambda: None, clock=clock)
    lasting = Lasting(Timers())

    def work() -> None:
        raise error

    for _ in range(3):
        workers.submit("a", work)
        while workers.busy():
            pass
        assert lasting.lately(VIEW, workers, clock.now).failing == frozenset()
        clock.now += FAILING_LONG / 2.5
    workers.submit("a", work)
    while workers.busy():
        pass
    assert lasting.lately(VIEW, workers, clock.now).failing == ({"a"} if fails else frozenset())


def test_a_node_without_a_guard_gives_its_images_away_after_a_while() -> None:
    """A guard that is restarted costs no image its node; one that stays away does."""
    lasting, held = Lasting(Timers()), frozenset({image(1).uid})
    assert not lasting.lately(VIEW, idle(), 0.0, unguarded=held).failing
    assert not lasting.lately(VIEW, idle(), UNGUARDED_LONG - 1, unguarded=held).failing
    assert not lasting.lately(VIEW, idle(), UNGUARDED_LONG).failing
    assert not lasting.lately(VIEW, idle(), UNGUARDED_LONG + 1, unguarded=held).failing
    assert lasting.lately(VIEW, idle(), 2 * UNGUARDED_LONG + 1, unguarded=held).failing == held
