"""Who should hold an image, in order, and why; and which images should be held elsewhere. Pure.

Every node computes the same from the same view, so there is no leader; etcd's transactions arbitrate.

The order of an image's nodes is weighted rendezvous hashing (highest random weight) with bounded loads: a node that
comes or goes moves few images but its own, and none takes more than its share while another has less. Before that
come, in this order: a move that was asked for, more of the image's networks up, an operator's pin.

An image moves by itself for four reasons, each with some hysteresis: its holder is drained, another node has more of
its networks up, its pin can serve it again, or the images are spread unevenly (a node that came back has none). Each
such move is written down as an operator's would be, `MOVES_AT_ONCE` in the whole cluster.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from gateway.model import ClusterView, ImageSpec, Label, NodeRecord, NodeState

CLIENTS = 2
"""The client instances a node that can take an image has: one of the kernel's, one of librados."""

MOVES_AT_ONCE = 4
"""How many images are on their way in the whole cluster before another one is moved that need not be."""

TOLERANCE = 0.05
"""By which part of its share a node may have too many or too few before images are moved for that; at least 1."""


@dataclass(frozen=True)
class Candidate:
    """A node that may take an image, with the reason for its place in the order."""

    node: Label
    reason: str


@dataclass(frozen=True)
class Lately:
    """What one view cannot tell, for it takes time to see.

    `steady` are the nodes whose networks have not changed for a moment: a network that fails for all fails for each at
    a slightly other time. `settled` are those that have been fit, with the same networks, for so long that images
    come back to them. `failing` are images whose holder has not been able to serve them for long, by its own word;
    `failed` are those whose last try to serve them failed there.
    """

    steady: AbstractSet[Label] = frozenset()
    settled: AbstractSet[Label] = frozenset()
    failing: AbstractSet[str] = frozenset()
    failed: AbstractSet[str] = frozenset()


@dataclass(frozen=True)
class Relocation:
    """An image that should be held elsewhere, and why."""

    uid: str
    source: Label
    target: Label
    reason: str


def unfit(view: ClusterView, node: Label) -> str | None:
    """Why a node can take no image at all now, in words that follow its name; None if it can."""
    word, record = view.live.get(node), view.nodes.get(node)
    if word is None:
        return "is not live"
    if record is None:
        return "has a record that cannot be read"
    if record.state is NodeState.DRAIN:
        return "is drained" + (f" ({record.why})" if record.why else "")
    if record.state is NodeState.MAINTENANCE:
        return "is in maintenance" + (f" ({record.why})" if record.why else "")
    if word.obstacle:
        return f"can serve nothing: {word.obstacle}"
    if len(word.instances) < CLIENTS:
        return "has not connected to Ceph yet"
    return None


def why_not(view: ClusterView, spec: ImageSpec, node: Label) -> str | None:
    """Why a node cannot take this image now, in words that follow its name; None if it can."""
    if node in spec.keep_away:
        return "is one that the image is kept away from"
    return unfit(view, node) or view.key_lacking(spec, node)


def candidates(view: ClusterView, spec: ImageSpec) -> tuple[Candidate, ...]:
    """The nodes that can take the image, in the order in which they should; empty if there is none."""
    return Placement(view).candidates(spec)


def should_leave(view: ClusterView, spec: ImageSpec, holder: Label) -> str | None:
    """Why the holder should give the image up now; None if it should keep it."""
    return Placement(view).should_leave(spec, holder)


def rebalancing(view: ClusterView) -> tuple[Relocation, ...]:
    """The moves that would spread the images evenly and bring each to its pin, however little uneven they are."""
    everybody = frozenset(view.live)
    return tuple(Placement(view).relocations(Lately(steady=everybody, settled=everybody), tolerance=0.0))


class Placement:
    """All that follows from one view; made once for many images."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.fit = tuple(sorted(node for node in view.live if unfit(view, node) is None))
        self.load = dict.fromkeys(view.live, 0)
        """How many images each live node has, counted where they are going."""
        self._orders: dict[str, tuple[Candidate, ...]] = {}
        self._specs = {spec.uid: spec for spec in view.images.values() if not (spec.deleting or spec.stopped)}
        unclaimed = []
        for uid, spec in sorted(self._specs.items()):
            place = self._place(uid)
            if place is None:
                unclaimed.append(spec)
            elif place in self.load:
                self.load[place] += 1
        weights = {node: view.nodes[node].weight for node in self.fit}
        whole = sum(weights.values()) or 1
        self.share = {node: len(self._specs) * weight / whole for node, weight in weights.items()}
        self.under_way = sum(self._is_under_way(uid) for uid in view.moves)
        """How many images are on their way, to a node that can take them, or not yet served by it."""
        for spec in unclaimed:
            order = self._orders[spec.uid] = self._order(spec)
            if order:
                self.load[order[0].node] += 1

    @property
    def able(self) -> tuple[Label, ...]:
        """The nodes that can take images if need be: those that are fit, then those whom only their drain keeps."""
        drained, active = self._if_undrained()
        return self.fit + tuple(node for node in drained if unfit(active, node) is None)

    def candidates(self, spec: ImageSpec) -> tuple[Candidate, ...]:
        """The nodes that can take the image, in the order in which they should."""
        found = self._orders.get(spec.uid)
        return self._order(spec) if found is None else found

    def should_leave(self, spec: ImageSpec, holder: Label) -> str | None:
        """Why the holder should give the image up now; None if it should keep it."""
        if spec.deleting:
            return "the image is being deleted"
        if spec.stopped:
            return "an operator stopped the image"
        if holder in spec.keep_away:
            return f"the image is kept away from node {holder}"
        move = self.view.moves.get(spec.uid)
        if move is not None and move.to != holder and why_not(self.view, spec, move.to) is None:
            return f"it moves to {move.to}: {move.reason}"
        if self.view.state_of(holder) is NodeState.MAINTENANCE and self._best_but(spec, holder) is None:
            return f"node {holder} is in maintenance, and no other node can take the image"
        return None

    def relocations(self, lately: Lately, *, tolerance: float = TOLERANCE) -> Iterator[Relocation]:
        """Which images should be held elsewhere; each is counted at its target from then on.

        The most urgent first of each holder, and the holders in turn: one that cannot let go of anything now, or does
        not get to it, must not keep the others' images waiting.
        """
        held = [(uid, self.view.claims[uid].node) for uid in self._specs if uid in self.view.claims]
        staying = [(uid, holder) for uid, holder in held if holder in self.load and not self._is_going(uid, holder)]
        gone = set()
        found: dict[Label, list[Relocation]] = {}
        for urgency in (self._for_networks, self._for_trouble, self._for_drain, self._for_pin):
            for uid, holder in staying:
                reason_and_target = urgency(self._specs[uid], holder, lately) if uid not in gone else None
                if reason_and_target is not None:
                    gone.add(uid)
                    found.setdefault(holder, []).append(self._relocate(uid, holder, *reason_and_target))
        yield from filter(None, chain.from_iterable(zip_longest(*found.values())))
        yield from self._for_evenness({uid: h for uid, h in staying if uid not in gone}, lately, tolerance)

    def _relocate(self, uid: str, holder: Label, reason: str, target: Label) -> Relocation:
        self.load[holder] -= 1
        self.load[target] += 1
        return Relocation(uid, holder, target, reason)

    def _for_networks(self, spec: ImageSpec, holder: Label, lately: Lately) -> tuple[str, Label] | None:
        most = max((len(self._up(spec, node)) for node in self.fit), default=0)  # cheap, and mostly the end of it
        best = self._best_but(spec, holder) if most > len(self._up(spec, holder)) else None
        if best is None or len(self._up(spec, best)) <= len(self._up(spec, holder)):
            return None
        if not {best, holder} <= lately.steady:
            return None
        lacking = _words(sorted(self._up(spec, best) - self._up(spec, holder)))
        return f"{best} has {lacking} up, {holder} has not", best

    def _for_trouble(self, spec: ImageSpec, holder: Label, lately: Lately) -> tuple[str, Label] | None:
        best = self._best_but(spec, holder) if spec.uid in lately.failing else None
        return None if best is None else (f"{holder} cannot serve it", best)

    def _for_drain(self, spec: ImageSpec, holder: Label, _: Lately) -> tuple[str, Label] | None:
        if self.view.state_of(holder) not in (NodeState.DRAIN, NodeState.MAINTENANCE):
            return None
        best = self._best_but(spec, holder)
        if best is None or (self._up(spec, holder) and not self._up(spec, best)):
            return None  # there it would be on no network at all
        return f"node {holder} {unfit(self.view, holder)}", best

    def _for_pin(self, spec: ImageSpec, holder: Label, lately: Lately) -> tuple[str, Label] | None:
        pin = spec.pin
        if pin is None or pin == holder or pin not in lately.settled or not self._can_take(spec, pin):
            return None
        fewer = len(self._up(spec, pin)) < len(self._up(spec, holder))
        return None if fewer else (f"it is pinned to {pin}", pin)

    def _for_evenness(self, staying: Mapping[str, Label], lately: Lately, tolerance: float) -> Iterator[Relocation]:
        """Moves from the fullest node to the emptiest while that makes the spread more even; it always ends, for the
        sum of the squares of the loads falls with each."""
        left = dict(staying)
        while (pair := self._uneven(left, lately.settled, tolerance)) is not None:
            uid, source, target = pair
            del left[uid]
            words = f"{source} has {self.load[source]} images, {target} has {self.load[target]}"
            yield self._relocate(uid, source, words, target)

    def _uneven(
        self, left: Mapping[str, Label], settled: AbstractSet[Label], tolerance: float
    ) -> tuple[str, Label, Label] | None:
        by_load = sorted(self.fit, key=lambda node: (self._fullness(node, 0), node))
        for source in reversed(by_load):
            for target in by_load:
                if target not in settled or self._fullness(source, -1) < self._fullness(target, +1):
                    continue
                if not (self._is_off(source, tolerance) or self._is_off(target, tolerance)):
                    continue
                movable = [uid for uid, holder in left.items() if holder == source and self._may_go(uid, target)]
                if source != target and movable:
                    return min(movable, key=lambda uid: (-self._score(target, uid), uid)), source, target
        return None

    def _fullness(self, node: Label, change: int) -> float:
        return (self.load[node] + change) / self.view.nodes[node].weight

    def _is_off(self, node: Label, tolerance: float) -> bool:
        return not tolerance or abs(self.load[node] - self.share[node]) >= max(1.0, tolerance * self.share[node])

    def _may_go(self, uid: str, target: Label) -> bool:
        spec, holder = self._specs[uid], self.view.claims[uid].node
        free = self._can_take(spec, target) and spec.pin != holder
        return free and len(self._up(spec, target)) >= len(self._up(spec, holder))

    def _place(self, uid: str) -> Label | None:
        """Where an image is or is going; None if nobody has it."""
        claim, move = self.view.claims.get(uid), self.view.moves.get(uid)
        if claim is None:
            return None
        return move.to if move is not None and move.to in self.fit else claim.node

    def _drained(self, spec: ImageSpec) -> list[Label]:
        """Who takes an image when nobody else can: being drained is a wish, being served a need."""
        drained, active = self._if_undrained()
        return [node for node in drained if why_not(active, spec, node) is None]

    def _if_undrained(self) -> tuple[list[Label], ClusterView]:
        """The live nodes that are drained, and the cluster as it would be if they were not."""
        record = {node: self.view.nodes.get(node) for node in sorted(self.view.live)}
        drained = [node for node, asked in record.items() if asked is not None and asked.state is NodeState.DRAIN]
        return drained, replace(self.view, nodes={**self.view.nodes, **dict.fromkeys(drained, NodeRecord())})

    def _can_take(self, spec: ImageSpec, node: Label) -> bool:
        return node in self.share and node not in spec.keep_away and not self.view.key_lacking(spec, node)

    def _is_going(self, uid: str, holder: Label) -> bool:
        """Whether a move is to take the image from its holder; one to the holder itself is done."""
        move = self.view.moves.get(uid)
        return move is not None and move.to != holder

    def _is_under_way(self, uid: str) -> bool:
        spec = self._specs.get(uid)
        return spec is not None and why_not(self.view, spec, self.view.moves[uid].to) is None

    def _best_but(self, spec: ImageSpec, holder: Label) -> Label | None:
        """The first other node that is fit; one that is drained itself takes only what nobody holds."""
        return next((each.node for each in self._order(spec) if each.node != holder and each.node in self.share), None)

    def _order(self, spec: ImageSpec) -> tuple[Candidate, ...]:
        nodes = [node for node in self.fit if self._can_take(spec, node)] or self._drained(spec)
        move, place = self.view.moves.get(spec.uid), self._place(spec.uid)
        ranked = []
        for node in nodes:
            up, others = self._up(spec, node), self.load[node] - (place == node)
            asked = move is not None and move.to == node
            too_many = max(0, others + 1 - math.ceil(self.share.get(node, 0)))
            rank = (not asked, -len(up), spec.pin != node, too_many, -self._score(node, spec.uid))
            ranked.append((rank, node, asked))
        order = sorted(ranked, key=lambda entry: entry[0])
        return tuple(Candidate(node, f"{node}: {self._reason(spec, node, asked, nodes)}") for _, node, asked in order)

    def _reason(self, spec: ImageSpec, node: Label, asked: bool, nodes: list[Label]) -> str:
        if asked:
            return f"moved here: {self.view.moves[spec.uid].reason}"
        up = self._up(spec, node)
        equal = [other for other in nodes if len(self._up(spec, other)) == len(up)]
        networks = _words(sorted(up)) + " up" if up else f"none of {_words(sorted(_wanted(spec)))} up"
        among = f"{len(equal)} node{'s' if len(equal) != 1 else ''} with {networks}"
        if spec.pin == node:
            return f"pinned here, one of {among}"
        first = max(equal, key=lambda other: self._score(other, spec.uid))
        return f"its turn among {among}" if first == node else f"the next of {among}, by share and turn"

    def _up(self, spec: ImageSpec, node: Label) -> frozenset[Label]:
        return _wanted(spec) & set(self.view.live[node].networks)

    def _score(self, node: Label, uid: str) -> float:
        digest = hashlib.sha256(f"{node}\0{uid}".encode()).digest()
        fraction = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
        return -self.view.nodes[node].weight / math.log(fraction)


def _wanted(spec: ImageSpec) -> frozenset[Label]:
    return frozenset(path.network for path in spec.paths)


def _words(labels: list[Label]) -> str:
    return " and ".join(map(str, labels))
