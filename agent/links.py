"""Steady links: what a flapping carrier means for paths, and what it means for placement. Pure.

A path goes down once the carrier has been away for `link_down`, so that a short loss leaves its sessions alone, and
may come back with the carrier: its sessions go on then. Others are told that the network is up only after `link_up` of
unbroken carrier, so that no image comes to a link that goes again in a moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.model import Label
from gateway.observed import Interface
from gateway.timers import Timers


@dataclass(frozen=True)
class _Link:
    """One network's carrier: as it is, since when (seconds, the caller's clock), and what is said of it."""

    carrier: bool
    since: float
    steady: bool


class SteadyLinks:
    """The networks of one node over time; fed with every look at them."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._links: dict[Label, _Link] = {}

    def look(self, networks: Mapping[Label, Interface], now: float) -> None:
        """Take note of one look; what is seen first of a network counts as steady.

        A network whose interface is gone has no carrier.
        """
        for name in networks.keys() | self._links.keys():
            carrier = name in networks and networks[name].up
            link = self._links.get(name, _Link(carrier, -math.inf, carrier))
            if link.carrier != carrier:
                link = _Link(carrier, now, link.steady)
            if link.carrier != link.steady and now >= self._due(link):
                link = replace(link, steady=link.carrier)
            self._links[name] = link

    def up(self) -> tuple[Label, ...]:
        """The networks that are steadily up, for the node's word."""
        return tuple(sorted(name for name, link in self._links.items() if link.steady))

    def for_paths(self, networks: Mapping[Label, Interface], now: float) -> dict[Label, Interface]:
        """The interfaces as paths should see them: up at once, and down only after `link_down` without carrier."""
        return {name: replace(seen, up=seen.up or self._is_brief(name, now)) for name, seen in networks.items()}

    def next_change(self, now: float, longest: float) -> float:
        """Seconds until something changes here though nothing more is seen."""
        due = (self._due(link) for link in self._links.values() if link.carrier != link.steady)
        brief = (self._due(link) for name, link in self._links.items() if self._is_brief(name, now))
        return max(0.0, min([longest, *(each - now for each in (*due, *brief))]))

    def _is_brief(self, name: Label, now: float) -> bool:
        """Whether the carrier went so little ago that its paths are left alone."""
        link = self._links.get(name)
        return link is not None and not link.carrier and now < self._due(link)

    def _due(self, link: _Link) -> float:
        return link.since + (self._timers.link_up if link.carrier else self._timers.link_down)
