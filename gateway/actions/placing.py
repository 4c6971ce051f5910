"""Where an image is to be, and whether at all: pin, keep away, stop and start."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from gateway.actions.ceph import Ceph
from gateway.actions.changing import Changed, change_served
from gateway.actions.waiting import Patience, Pending
from gateway.errors import NotFound, Refused
from gateway.model import ClusterView, ImageName, ImageSpec, Label
from gateway.placement import why_not
from gateway.store.cluster import ClusterStore


def pin(store: ClusterStore, ceph: Ceph, name: ImageName, node: Label) -> Changed:
    """Keep an image at a node while that one can serve it; a node that cannot now gets it later, which is a warning.

    Where the node can, the image is asked to move there at once: a pin alone waits until the node has settled.
    """
    view = store.view()
    _check_known(view, node)

    def pinned(spec: ImageSpec) -> ImageSpec:
        if node in spec.keep_away:
            raise Refused(f"image {name} is kept away from node {node}; see `rbdgate image keep-away {name} --clear`")
        return replace(spec, pin=node)

    changed = change_served(store, ceph, name, pinned)
    reason = why_not(view, changed.spec, node)
    claim = view.claims.get(changed.spec.uid)
    if reason is not None:
        return replace(changed, warning=_joined(changed.warning, f"{node} {reason}: others serve the image meanwhile"))
    if claim is not None and claim.node != node:
        store.request_move(changed.spec.uid, node, "it was pinned there")
    return changed


def unpin(store: ClusterStore, ceph: Ceph, name: ImageName) -> Changed:
    """Let placement decide again; an image that is pinned nowhere is no error."""
    return change_served(store, ceph, name, lambda spec: replace(spec, pin=None))


def keep_away(store: ClusterStore, ceph: Ceph, name: ImageName, nodes: tuple[Label, ...]) -> Changed:
    """Have these nodes, and no others, never serve an image. Refused if there were no node left that may."""
    view = store.view()
    for node in nodes:
        _check_known(view, node)
    if nodes and not (set(view.nodes) | set(view.live)) - set(nodes):
        raise Refused(f"image {name} would be kept away from every node there is; `rbdgate image stop {name}` stops it")

    def kept_away(spec: ImageSpec) -> ImageSpec:
        if spec.pin in nodes:
            raise Refused(f"image {name} is pinned to node {spec.pin}; `rbdgate image unpin {name}` first")
        return replace(spec, keep_away=tuple(sorted(set(nodes))))

    return change_served(store, ceph, name, kept_away)


def stop(store: ClusterStore, ceph: Ceph, name: ImageName) -> Changed:
    """Have no node serve an image: its initiators' sessions end, its data and its identity stay."""
    return change_served(store, ceph, name, lambda spec: replace(spec, stopped=True))


def start(store: ClusterStore, ceph: Ceph, name: ImageName) -> Changed:
    """Have an image served again that was stopped."""
    return change_served(store, ceph, name, lambda spec: replace(spec, stopped=False))


def await_released(store: ClusterStore, spec: ImageSpec, patience: Patience) -> None:
    """Look on until no node holds the image."""

    def released() -> Literal[True] | Pending:
        claim = store.view().claims.get(spec.uid)
        return True if claim is None else Pending(f"{claim.node} has not let image {spec.name} go yet")

    patience.until(released)


def await_away(store: ClusterStore, spec: ImageSpec, patience: Patience) -> None:
    """Look on until none of the nodes that the image is kept away from holds it."""

    def away() -> Literal[True] | Pending:
        claim = store.view().claims.get(spec.uid)
        if claim is None or claim.node not in spec.keep_away:
            return True
        return Pending(f"{claim.node} has not let image {spec.name} go yet")

    patience.until(away)


def _check_known(view: ClusterView, node: Label) -> None:
    if node not in view.nodes and node not in view.live:
        known = ", ".join(str(each) for each in sorted(view.nodes)) or "none"
        raise NotFound(f"there is no node {node}; known are: {known}")


def _joined(*sentences: str) -> str:
    return "; ".join(sentence for sentence in sentences if sentence)
