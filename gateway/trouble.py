"""What is wrong with the cluster, gravest first: since when, why, and what to do or where to look next. Pure.

All of it follows from what is recorded: the nodes' reports, and where no live node speaks of a thing any more (a node
that died, an image that nobody holds) the log of events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gateway.events import Event, Kind
from gateway.model import ClusterSettings, NodeState
from gateway.report import ImageState, ImageStatus, NodeStatus

_DIED = "is not live any more"
_STOPS = (_DIED, "may not serve now")
_ENDS = ("let go of it", "lost it", "is not exported here any more", "rbdgate image stop", "rbdgate image create")
"""How the events begin by which a node, or an image, serves no more (agent/narrator.py), or does not yet."""


_UNSERVED = (ImageState.STARTING, ImageState.FAILED, ImageState.UNCLAIMED, ImageState.STOPPED, ImageState.DELETING)
"""Of these the holder, if there is one, knows since when *it* does not serve the image; the log knows since when nobody
does."""


class Gravity(Enum):
    """How bad it is, the worst first."""

    NOT_SERVED = "not served"
    DEGRADED = "degraded"
    AT_RISK = "at risk"
    NOTICE = "notice"


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong; `since` is UTC as events have it, empty where nobody has recorded it."""

    gravity: Gravity
    about: str
    what: str
    since: str
    reason: str
    next: str

    def as_dict(self) -> dict[str, Any]:
        """The trouble as `--json` prints it."""
        return vars(self) | {"gravity": self.gravity.value}


def troubles(
    settings: ClusterSettings, images: Sequence[ImageStatus], nodes: Sequence[NodeStatus], events: Sequence[Event]
) -> tuple[Trouble, ...]:
    """All that is wrong, by gravity, the oldest first of each; `events` in their order, the newest last."""
    found = [*_images(images, events), *_nodes(settings, nodes, events), *_spare(nodes, events)]
    order = list(Gravity)
    return tuple(sorted(found, key=lambda each: (order.index(each.gravity), each.since or "~", each.about)))


def _images(images: Sequence[ImageStatus], events: Sequence[Event]) -> Iterator[Trouble]:
    for image in images:
        told = f"`rbdgate events --image {image.name}`"
        if image.state is ImageState.SERVING and not image.reason:
            continue
        gravity, what = _gravity(image)
        unserved = _unserved_since(events, image.name) if image.state in _UNSERVED else ""
        since = unserved or image.since
        yield Trouble(gravity, image.name, what, since, image.reason, _next_of_image(image, told))


def _gravity(image: ImageStatus) -> tuple[Gravity, str]:
    down = sum(path.state != "up" for path in image.paths)
    match image.state:
        case ImageState.SERVING:
            return Gravity.AT_RISK, "is served, and something about it is wrong"
        case ImageState.DEGRADED if down < len(image.paths):
            return Gravity.DEGRADED, f"{down} of {len(image.paths)} paths down at {image.holder}"
        case ImageState.DEGRADED:
            return Gravity.NOT_SERVED, f"all {down} paths down at {image.holder}"
        case ImageState.STARTING | ImageState.FAILED:
            word = "cannot be exported" if image.state is ImageState.FAILED else "is not exported yet"
            return Gravity.NOT_SERVED, f"{word} by {image.holder}"
        case ImageState.UNCLAIMED:
            return Gravity.NOT_SERVED, "no gateway holds it"
        case ImageState.BROKEN:
            return Gravity.NOT_SERVED, "what etcd has about it cannot be read"
    return Gravity.NOTICE, f"is {image.state.value}: an operator's wish"


def _next_of_image(image: ImageStatus, told: str) -> str:
    match image.state:
        case ImageState.STOPPED:
            return f"`rbdgate image start {image.name}` serves it"
        case ImageState.DELETING:
            return f"`rbdgate image delete {image.name}` finishes it"
        case ImageState.UNCLAIMED:
            return f"`rbdgate node list`; {told}"
        case ImageState.STARTING:
            return f"wait some seconds: it is being taken up; if that lasts, `rbdgate doctor` on {image.holder}; {told}"
        case ImageState.BROKEN:
            return "`rbdgate doctor`; its key in etcd must be mended, or restored from a backup"
    return f"`rbdgate doctor` on {image.holder}; {told}"


def _nodes(settings: ClusterSettings, nodes: Sequence[NodeStatus], events: Sequence[Event]) -> Iterator[Trouble]:
    for node in nodes:
        yield from _node(settings, node, events)
        if node.state is not NodeState.ACTIVE:
            word = "is drained" if node.state is NodeState.DRAIN else "is in maintenance"
            since = _asked_since(node, events)
            resume = f"`rbdgate node resume {node.name}` when that is over"
            yield Trouble(Gravity.NOTICE, node.name, word, since, node.why, resume)


def _node(settings: ClusterSettings, node: NodeStatus, events: Sequence[Event]) -> Iterator[Trouble]:
    if not node.live:
        since = _last(events, _DIED, node.name)
        look = "its power, its network, then `rbdgate doctor` there"
        look += f"; gone for good: `rbdgate node remove {node.name}`"
        gravity = Gravity.AT_RISK if node.state is NodeState.ACTIVE else Gravity.NOTICE
        yield Trouble(gravity, node.name, "is not live", since, node.reason, look)
        return
    doctor = f"`rbdgate doctor` on {node.name}"
    if node.obstacle:
        yield Trouble(Gravity.AT_RISK, node.name, "can serve nothing", node.since, node.obstacle, doctor)
    for network in settings.networks:
        name = str(network.name)
        if name not in node.networks:
            why = "images go to nodes that have it, and their paths on it are down here"
            yield Trouble(Gravity.AT_RISK, node.name, f"{name} is not up there", node.down.get(name, ""), why, doctor)


def _spare(nodes: Sequence[NodeStatus], events: Sequence[Event]) -> Iterator[Trouble]:
    """A cluster in which nobody could take over is told, if it ever had a second node."""
    able = [node.name for node in nodes if node.live and not node.obstacle and node.state is not NodeState.MAINTENANCE]
    if len(able) == 1 and len(nodes) > 1:
        word, why = "is the only gateway that can serve", "if it fails, nothing is served"
        since = max(_unable_since(node, events) for node in nodes if node.name not in able)
        others = ", ".join(node.name for node in nodes if node.name not in able)
        yield Trouble(Gravity.AT_RISK, able[0], word, since, why, f"bring another one back: {others}")


def _unable_since(node: NodeStatus, events: Sequence[Event]) -> str:
    """Since when a node that can serve nothing cannot."""
    if not node.live:
        return _last(events, _DIED, node.name)
    return node.since if node.obstacle else _asked_since(node, events)


def _asked_since(node: NodeStatus, events: Sequence[Event]) -> str:
    """Since when an operator has wanted a node to be in its state."""
    return _last(events, f"rbdgate node {node.state.value} {node.name}")


def _unserved_since(events: Sequence[Event], image: str) -> str:
    """Since when nobody serves an image: its last holder let go, lost it, or died; empty if the log does not tell."""
    holder, since = "", ""
    for event in events:
        about_it = event.image == image
        if about_it and event.text.startswith(("claimed", "serves it")):
            holder, since = event.node, since if event.text.startswith("claimed") else ""
        ends = about_it and event.text.startswith(_ENDS)
        dies = bool(holder) and event.node == holder and event.kind is Kind.NODE and event.text.startswith(_STOPS)
        if (ends or dies) and not since:
            since = event.time
    return since


def _last(events: Sequence[Event], text: str, node: str = "") -> str:
    """When the newest event that begins so was; empty if the log has none (any more)."""
    found = (each.time for each in reversed(events) if each.text.startswith(text) and node in ("", each.node))
    return next(found, "")
