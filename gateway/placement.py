"""Who should hold an image, in order, and why. Pure: every node computes the same from the same view.

The order is weighted rendezvous hashing (highest random weight): a node that comes or goes moves only the images it
wins or loses. Nodes that can reach more of the image's networks come first; an operator's move comes before all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model import ClusterView, ImageSpec, Label, NodeState

CLIENTS = 2
"""The client instances a node that can take an image has: one of the kernel's, one of librados."""


@dataclass(frozen=True)
class Candidate:
    """A node that may take an image, with the reason for its place in the order."""

    node: Label
    reason: str


def candidates(view: ClusterView, spec: ImageSpec) -> tuple[Candidate, ...]:
    """The live, active nodes in the order in which they should take the image; empty if there is none."""
    wanted = {path.network for path in spec.paths}
    move = view.moves.get(spec.uid)
    ranked: list[tuple[bool, int, float, Candidate]] = []
    active = [node for node in view.live if view.state_of(node) is NodeState.ACTIVE]
    for node in active:
        up = wanted & set(view.live[node].networks)
        asked = move is not None and move.to == node
        reason = "moved here by an operator" if asked else _reason(len(active), sorted(up), sorted(wanted))
        ranked.append((not asked, -len(up), -_score(node, spec.uid), Candidate(node, f"{node}: {reason}")))
    return tuple(entry[3] for entry in sorted(ranked, key=lambda entry: entry[:3]))


def should_leave(view: ClusterView, spec: ImageSpec, holder: Label) -> str | None:
    """Why the holder should give the image up now; None if it should keep it."""
    if spec.deleting:
        return "the image is being deleted"
    move = view.moves.get(spec.uid)
    if move is None or move.to == holder:
        return None
    if view.state_of(move.to) is NodeState.ACTIVE and has_clients(view, move.to):
        return f"an operator moves it to {move.to}"
    return None


def has_clients(view: ClusterView, node: Label) -> bool:
    """Whether the node is live with both its clients of Ceph, krbd's and its own: without them it takes nothing."""
    word = view.live.get(node)
    return word is not None and len(word.instances) >= CLIENTS


def _score(node: Label, uid: str, weight: float = 1.0) -> float:
    digest = hashlib.sha256(f"{node}\0{uid}".encode()).digest()
    fraction = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
    return -weight / math.log(fraction)


def _reason(count: int, up: Sequence[Label], wanted: Sequence[Label]) -> str:
    networks = " and ".join(str(network) for network in up) if up else "none of " + ", ".join(map(str, wanted))
    return f"its turn among {count} active node{'s' if count != 1 else ''}, with {networks} up"
