"""Steady links: a short loss closes nothing, a flapping carrier gets no image, the first look counts."""

from __future__ import annotations

from agent.links import SteadyLinks
from gateway.model import Label
from gateway.observed import Interface
from gateway.timers import Timers

TIMERS = Timers()
LAN = Label("lan1")


class Watched:
    """One network under watch; a look tells what paths and what others may think of it."""

    def __init__(self) -> None:
        self.links = SteadyLinks(TIMERS)

    def look(self, now: float, *, up: bool) -> tuple[bool, bool]:
        """Look; returns whether its paths stay or come up, and whether others hear that it is up."""
        networks = {LAN: Interface("eth0", 2, up=up, addresses=frozenset())}
        self.links.look(networks, now)
        return self.links.for_paths(networks, now)[LAN].up, LAN in self.links.up()


def test_the_first_look_counts_as_steady() -> None:
    """An agent that starts takes the links as they are, up and down."""
    assert Watched().look(100.0, up=True) == (True, True)
    assert Watched().look(100.0, up=False) == (False, False)


def test_a_short_loss_is_none() -> None:
    """A carrier that is back within `link_down` closes no path and is no news to others."""
    watched = Watched()
    watched.look(100.0, up=True)
    assert watched.look(101.0, up=False) == (True, True)
    assert watched.look(101.0 + TIMERS.link_down - 0.01, up=False) == (True, True)
    assert watched.look(102.0, up=True) == (True, True)
    assert watched.look(102.0 + TIMERS.link_down, up=True) == (True, True)


def test_a_lasting_loss_closes_the_path_and_is_told() -> None:
    """After `link_down` without carrier the paths close and others hear of it."""
    watched = Watched()
    watched.look(100.0, up=True)
    watched.look(101.0, up=False)
    assert watched.look(101.0 + TIMERS.link_down, up=False) == (False, False)


def test_paths_come_back_at_once_and_trust_does_not() -> None:
    """With the carrier back the path may open; others are told after `link_up` of unbroken carrier only."""
    watched = Watched()
    watched.look(100.0, up=True)
    watched.look(101.0, up=False)
    watched.look(103.0, up=False)
    assert watched.look(104.0, up=True) == (True, False)
    assert watched.look(104.0 + TIMERS.link_up - 0.01, up=True) == (True, False)
    assert watched.look(104.0 + TIMERS.link_up, up=True) == (True, True)


def test_a_flapping_link_is_never_trusted() -> None:
    """Each loss begins the wait anew: however long it flaps, nobody moves an image to it."""
    watched = Watched()
    watched.look(100.0, up=True)
    watched.look(101.0, up=False)
    watched.look(103.0, up=False)
    for beat in range(20):
        assert not watched.look(104.0 + beat * 6, up=True)[1]
        assert not watched.look(104.0 + beat * 6 + 5, up=False)[1]


def test_an_interface_that_went_is_a_network_without_carrier() -> None:
    """A network that no interface serves any more is told as down."""
    watched = Watched()
    watched.look(100.0, up=True)
    watched.links.look({}, 101.0)
    watched.links.look({}, 101.0 + TIMERS.link_down)
    assert watched.links.up() == ()


def test_it_says_when_to_look_again() -> None:
    """The wait ends when a loss becomes lasting, and when a carrier has stayed long enough."""
    watched = Watched()
    watched.look(100.0, up=True)
    assert watched.links.next_change(100.0, 5.0) == 5.0
    watched.look(101.0, up=False)
    assert watched.links.next_change(101.25, 5.0) == TIMERS.link_down - 0.25
    watched.look(103.0, up=False)
    assert watched.links.next_change(103.0, 5.0) == 5.0
    watched.look(104.0, up=True)
    assert watched.links.next_change(104.0, 60.0) == TIMERS.link_up
