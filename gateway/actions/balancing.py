"""Spreading the images evenly at an operator's word: what placement would do by itself, but all of it, and now."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.actions.nodes import listed
from gateway.actions.waiting import Patience, Pending
from gateway.errors import NotFound
from gateway.model import ClusterView, Label
from gateway.placement import MOVES_AT_ONCE, Relocation, rebalancing
from gateway.store.cluster import ClusterStore


@dataclass(frozen=True)
class PlannedMove:
    """One move with the image's name, as people know it."""

    image: str
    source: Label
    target: Label
    reason: str


def moves(store: ClusterStore) -> tuple[PlannedMove, ...]:
    """What `rebalance` would move now."""
    view = store.view()
    return tuple(_named(view, each) for each in rebalancing(view))


def rebalance(store: ClusterStore, patience: Patience) -> tuple[PlannedMove, ...]:
    """Move images until they are spread evenly, a few at a time; returns the moves that were asked for.

    NotReached when there is more to do at the deadline: what was asked for is done all the same, the rest is not asked.
    """
    under_way = _Rebalance(store)
    patience.until(under_way.look)
    return tuple(under_way.asked)


@dataclass
class _Rebalance:
    store: ClusterStore
    asked: list[PlannedMove] = field(default_factory=list)
    uids: set[str] = field(default_factory=set)

    def look(self) -> bool | Pending:
        """Ask for as many moves as may be under way at once; Pending until there is none to ask for and none to do."""
        view = self.store.view()
        wanted = rebalancing(view)
        for each in wanted[: max(0, MOVES_AT_ONCE - len(view.moves))]:
            try:
                self.store.request_move(each.uid, each.target, f"rebalanced: {each.reason}")
            except NotFound:  # deleted since the look
                continue
            self.asked.append(_named(view, each))
            self.uids.add(each.uid)
        under_way = [spec for spec in map(view.spec_of, self.uids & set(view.moves)) if spec is not None]
        if not wanted and not under_way:
            return True
        return Pending(
            f"{len(wanted)} more images to move, {len(under_way)} on their way: {listed(under_way) or 'none'}"
        )


def _named(view: ClusterView, each: Relocation) -> PlannedMove:
    spec = view.spec_of(each.uid)
    return PlannedMove(str(spec.name) if spec else each.uid, each.source, each.target, each.reason)
