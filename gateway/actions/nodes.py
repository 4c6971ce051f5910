"""What an operator asks of nodes: drain, maintenance, active again, weight, and to forget one that is dead.

`remove` fences before it forgets. A dead node's holder records name clients that may still have queued writes; only
somebody who takes the image up would fence them, and nobody may ever do so. For each record, in this order: the
fence's intent is written to etcd, where every agent keeps its entry alive from then on; the client is blocklisted and
that is confirmed on the image; the record goes. The node's own record goes last, so a run that was cut short anywhere
is finished by the next one, and each thing it did is safe to do twice. Every write is refused once the node is live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from gateway.actions.ceph import Ceph
from gateway.actions.changing import ATTEMPTS
from gateway.actions.waiting import Patience, Pending
from gateway.errors import BadInput, Conflict, NotFound, RbdgateError, Refused
from gateway.model import ClusterView, FenceIntent, HolderRecord, ImageSpec, Label, NodeRecord, NodeState
from gateway.placement import Placement, candidates, why_not
from gateway.store.cluster import ClusterStore

NAMED = 5
"""How many images a sentence names; of others it tells the number."""


@dataclass(frozen=True)
class Removed:
    """A node that is forgotten: how many of its clients were fenced for that, and what is left to know."""

    node: Label
    fenced: int
    warnings: tuple[str, ...] = ()


def drain(store: ClusterStore, node: Label, reason: str) -> None:
    """Have a node give away what others can take; `await_empty` sees it done."""
    _change(store, node, lambda record, _: replace(record, state=NodeState.DRAIN, why=reason))


def maintain(store: ClusterStore, node: Label, reason: str, *, force: bool) -> None:
    """Have a node give everything away; Refused, naming them, if images could then be served nowhere.

    The decision rests on what is asked of every node: of two operators who do this at once, one decides anew.
    """

    def asked(record: NodeRecord, view: ClusterView) -> NodeRecord:
        new = replace(record, state=NodeState.MAINTENANCE, why=reason)
        lost = () if force else _served_nowhere(view, node, new)
        if lost:
            raise Refused(
                f"with node {node} in maintenance no active node could serve {listed(lost)}; bring another up"
                " first, `node drain` what others can take, or use --force: a drained node takes what it can then, and"
                " the rest is served nowhere"
            )
        return new

    _change(store, node, asked, all_seen=True)


def resume(store: ClusterStore, node: Label) -> None:
    """Have a node take images again."""
    _change(store, node, lambda record, _: replace(record, state=NodeState.ACTIVE, why=""))


def weigh(store: ClusterStore, node: Label, weight: int) -> None:
    """Set a node's share of the images; BadInput for a weight there is not."""
    _change(store, node, lambda record, _: replace(record, weight=weight))


def await_empty(store: ClusterStore, node: Label, patience: Patience) -> None:
    """Look on until the node holds no image; NotReached says what is left and why no other node takes it.

    An image that it was seen to hold and that another node can take is waited for until one has: whoever drains the
    next node at once must not leave it with nobody.
    """
    given: set[str] = set()

    def empty() -> Literal[True] | Pending:
        view = store.view()
        left = [uid for uid, claim in view.claims.items() if claim.node == node]
        if left:
            given.update(left)
            return Pending(f"{node} still holds {_holding(view, node, _specs(view, left), len(left))}")
        between = [spec for spec in _specs(view, given - set(view.claims)) if candidates(view, spec)]
        return Pending(f"nobody has taken {listed(between)} yet") if between else True

    patience.until(empty)


def _specs(view: ClusterView, uids: Iterable[str]) -> list[ImageSpec]:
    return [spec for spec in map(view.spec_of, uids) if spec is not None and not (spec.deleting or spec.stopped)]


def remove(store: ClusterStore, ceph: Ceph, node: Label, by: Label, *, force: bool) -> Removed:
    """Forget a node that is not live, its clients fenced first. NotFound; Refused while it is live.

    With `force` a fence that is not confirmed does not stop it: its intent and its records stay, and who takes those
    images up fences before that.
    """
    records = store.node_records()
    if node not in records:
        raise NotFound(f"there is no node {node}: none of that name ever joined; see `rbdgate node list`")
    view = store.view()
    _refuse_living(view, node)
    left = [record for record in view.records if record.node == node]
    _refuse_used_by_others(view, left)
    # Without the boot they lived in: whatever machine comes back under that name, these fences stay on record.
    store.fence_dead_node(
        node, tuple(FenceIntent(each.instance, node, by, each.image_uid, each.token) for each in left)
    )
    warnings = []
    for uid in sorted({record.image_uid for record in left}):
        of_image = tuple(record for record in left if record.image_uid == uid)
        try:
            _fence(ceph, view.spec_of(uid), uid, of_image)
        except RbdgateError as error:
            if not force:
                raise
            warnings.append(f"{error}; its records stay, and who takes that image up fences first")
            continue
        store.drop_records(uid, of_image)
    for uid, move in view.moves.items():
        if move.to == node:
            store.finish_move(uid, move.revision)
    store.remove_node(node, records[node][1])
    pinned = [spec for spec in view.images.values() if spec.pin == node]
    if pinned:
        warnings.append(f"still pinned to {node}: {listed(pinned)}; see `rbdgate image unpin`")
    return Removed(node, len({record.instance for record in left}), tuple(warnings))


def listed(specs: Iterable[ImageSpec]) -> str:
    """Images by name, the first few of them."""
    names = sorted(str(spec.name) for spec in specs)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _change(
    store: ClusterStore,
    node: Label,
    to: Callable[[NodeRecord, ClusterView], NodeRecord],
    *,
    all_seen: bool = False,
) -> None:
    """Change what is asked of a node, again if somebody else was faster; `all_seen` guards every node's record."""
    for attempt in range(ATTEMPTS):
        records = store.node_records()
        view = store.view()  # read later: whatever it has beyond those records, the guard will notice
        if node not in records:
            damaged = node in view.live
            reason = "its record cannot be read" if damaged else "none of that name ever joined"
            raise NotFound(f"node {node}: {reason}; see `rbdgate node list`")
        old, revision = records[node]
        new = to(old, view)
        if new == old:
            return
        seen = {other: found[1] for other, found in records.items()} if all_seen else {node: revision}
        try:
            store.change_node(node, new, seen)
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def _served_nowhere(view: ClusterView, node: Label, record: NodeRecord) -> list[ImageSpec]:
    """The images that have somewhere to be now and would not with that record."""
    now, after = Placement(view), Placement(replace(view, nodes={**view.nodes, node: record}))
    held = {uid for uid, claim in view.claims.items() if claim.node == node}
    return [
        spec
        for spec in view.images.values()
        if not (spec.deleting or spec.stopped)
        and (spec.uid in held or any(each.node == node for each in now.candidates(spec)))
        and not any(each.node in after.fit and _reaches(view, spec, each.node) for each in after.candidates(spec))
    ]


def _reaches(view: ClusterView, spec: ImageSpec, node: Label) -> bool:
    """Whether the node has any of the image's networks up."""
    return any(path.network in view.live[node].networks for path in spec.paths)


def _holding(view: ClusterView, node: Label, specs: list[ImageSpec], count: int) -> str:
    placement = Placement(view)
    stuck = [spec for spec in specs if not [each for each in placement.candidates(spec) if each.node in placement.fit]]
    if not stuck:
        return f"{count} image{'s' if count != 1 else ''}: {listed(specs)}"
    others = sorted((set(view.nodes) | set(view.live)) - {node})
    why = "; ".join(f"{other} {why_not(view, stuck[0], other)}" for other in others)
    return f"{count}, and no other node can take {listed(stuck)}: {why or 'there is none'}"


def _refuse_living(view: ClusterView, node: Label) -> None:
    if node in view.live:
        raise Refused(
            f"node {node} is live: `rbdgate node maintenance {node}`, then stop its agent (`systemctl disable --now"
            " rbdgate-agent`), and remove it when its lease has run out"
        )
    held = [uid for uid, claim in view.claims.items() if claim.node == node]
    if held:
        raise Refused(f"node {node} still holds {len(held)} images; wait until its lease has run out")


def _refuse_used_by_others(view: ClusterView, left: Iterable[HolderRecord]) -> None:
    """A client that a live node calls its own (a machine that was given another name) is not a dead node's."""
    living = {instance: live.name for live in view.live.values() for instance in live.instances}
    for record in left:
        if record.instance in living:
            raise Refused(
                f"client {record.instance}, recorded for node {record.node}, is used by live node"
                f" {living[record.instance]}: it is not fenced; wait until that one has let image"
                f" {record.image_uid} go"
            )


def _fence(ceph: Ceph, spec: ImageSpec | None, uid: str, records: tuple[HolderRecord, ...]) -> None:
    if spec is None:
        raise BadInput(f"the image of uid {uid} cannot be read from etcd, so no fence can be shown to hold for it")
    ceph.fence(spec, [record.instance for record in records])
