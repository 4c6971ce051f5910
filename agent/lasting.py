"""What has been so for how long, as this agent has seen it: it begins anew with the agent, and delays with it."""

from __future__ import annotations

from collections.abc import Mapping, Set

from agent.workers import Workers
from gateway.errors import KernelRefused, Stuck
from gateway.model import ClusterView, Label
from gateway.placement import Lately, unfit
from gateway.timers import Timers

LINKS_STEADY = 3.0
"""For how many seconds nodes' networks must have been the same before one's images go to the other for them."""

FAILING_LONG = 30.0
"""After how many seconds of nothing but failures in this node's kernel an image is given to another node."""

GIVEN_UP_MOST = 5
"""How often that time doubles for an image that was given away for it and came back."""

UNGUARDED_LONG = 10.0
"""After how many seconds without a guard, whose paths are all closed, images are given to another node."""

_Networks = tuple[Label, tuple[Label, ...]]


class Lasting:
    """Fed with every view; times are seconds on the cycle's clock."""

    def __init__(self, timers: Timers) -> None:
        self._failback_delay = timers.failback_delay
        self._unclaimed_since: dict[str, float] = {}
        self._same_since: dict[_Networks, float] = {}
        self._fit_since: dict[_Networks, float] = {}
        self._unguarded_since: float | None = None
        self._failing: frozenset[str] = frozenset()
        self._given_up: dict[str, int] = {}

    def unclaimed(self, view: ClusterView, now: float) -> dict[str, float]:
        """For how many seconds each image that nobody claims has been seen without a claim."""
        unclaimed = {spec.uid for spec in view.images.values()} - set(view.claims)
        self._unclaimed_since = {uid: self._unclaimed_since.get(uid, now) for uid in unclaimed}
        return {uid: now - since for uid, since in self._unclaimed_since.items()}

    def lately(
        self,
        view: ClusterView,
        workers: Workers,
        now: float,
        *,
        unguarded: Set[str] = frozenset(),
        clean: bool = True,
    ) -> Lately:
        """What placement may rest on; `unguarded` are the images held here, if this node has no guard now.

        Unless `clean`, this node could not release an image without ending its membership, and no image is worth that
        which is only to be elsewhere for a pin or an even spread.
        The delay of a fail-back begins anew with an operator's move as well: what somebody is about must not be undone
        under his hands.
        """
        networks = {(node, word.networks) for node, word in view.live.items()}
        self._same_since = {each: self._same_since.get(each, now) for each in networks}
        if any(not move.why for move in view.moves.values()):
            self._fit_since = {}
        fit = {each for each in networks if unfit(view, each[0]) is None}
        self._fit_since = {each: self._fit_since.get(each, now) for each in fit}
        if not unguarded:
            self._unguarded_since = None
        elif self._unguarded_since is None:
            self._unguarded_since = now
        alone = self._unguarded_since is not None and now - self._unguarded_since >= UNGUARDED_LONG
        failing = self._failing_long(workers, now)
        return Lately(
            steady=_since(self._same_since, now - LINKS_STEADY),
            settled=_since(self._fit_since, now - self._failback_delay) if clean else frozenset(),
            failing=failing | unguarded if alone else failing,
            failed=frozenset(workers.failing((Exception,))),
        )

    def next_change(self, now: float, longest: float) -> float:
        """Seconds until networks that changed count as steady, or `longest` if nothing comes to that before."""
        due = (since + LINKS_STEADY - now for since in self._same_since.values())
        return min([longest, *(left for left in due if left > 0)])

    def _failing_long(self, workers: Workers, now: float) -> frozenset[str]:
        """What fails here for long, longer each time round: an image that no node can export must not go round fast."""
        since = workers.failing((KernelRefused, Stuck))
        found = {uid for uid, began in since.items() if now - began >= FAILING_LONG * 2 ** self._given_up.get(uid, 0)}
        for uid in self._failing - found:
            self._given_up[uid] = min(self._given_up.get(uid, 0) + 1, GIVEN_UP_MOST)
        self._failing = frozenset(found)
        return self._failing


def _since(times: Mapping[tuple[Label, tuple[Label, ...]], float], latest: float) -> frozenset[Label]:
    return frozenset(node for (node, _), since in times.items() if since <= latest)
