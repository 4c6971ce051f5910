"""The word: what a node says of itself under its lease, and how spec, claim and reports become what people see.

Pure. A node's report is JSON in `status/<node>`; a reader ignores words it does not know, so that nodes of two
versions can read each other during an upgrade.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gateway.errors import BadInput
from gateway.model import USUAL_WEIGHT, Claim, ClusterView, ImageSpec, Label, NodeRecord, NodeState
from gateway.placement import Placement, why_not
from gateway.reasons import Down


class ImageState(Enum):
    """An image in one word."""

    SERVING = "serving"
    DEGRADED = "degraded"
    STARTING = "starting"
    FAILED = "failed"
    UNCLAIMED = "unclaimed"
    STOPPED = "stopped"
    DELETING = "deleting"
    BROKEN = "broken"


@dataclass(frozen=True)
class PathReport:
    """One path as its holder sees it; `reason` says why it is down, `since` since when it has been up or down.

    `kind` is the reason in one word.
    """

    tag: int
    up: bool
    reason: str = ""
    since: str = ""
    kind: Down = Down.UNKNOWN


@dataclass(frozen=True)
class ImageReport:
    """An image as its holder sees it; `error` is the failure that keeps it from being served, if any.

    `applied` is the newest revision of spec, groups and credentials that the kernel was seen to agree with in all; 0 if
    it does not, or that is not known. `since` is since when it has been exported or not, and whole or failing.
    """

    uid: str
    token: int
    exported: bool
    paths: tuple[PathReport, ...]
    error: str = ""
    applied: int = 0
    since: str = ""


@dataclass(frozen=True)
class NodeReport:
    """What a node last said: the one sentence of its last turn, its images, and why it takes no others, if so.

    `untaken` tells by uid why it could not serve an image that nobody holds; `discovery` is the newest revision of the
    credentials that its discovery was seen to ask for, 0 if it does not. `since` is since when there has been an
    obstacle, `down` since when each network of the cluster is down here, by its name. Times are UTC by the node's
    clock, as events have them, for people only; empty where none was told, as by an older version.
    """

    node: Label
    version: str
    sentence: str
    images: tuple[ImageReport, ...]
    obstacle: str = ""
    untaken: Mapping[str, str] = field(default_factory=dict)
    discovery: int = 0
    since: str = ""
    down: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The report as the value of `status/<node>`."""
        images = [
            {
                "uid": image.uid,
                "token": image.token,
                "exported": image.exported,
                "error": image.error,
                "applied": image.applied,
                "since": image.since,
                "paths": [_path_form(path) for path in image.paths],
            }
            for image in self.images
        ]
        report: dict[str, Any] = {
            "node": str(self.node),
            "version": self.version,
            "sentence": self.sentence,
            "images": images,
        }
        report |= {"obstacle": self.obstacle, "untaken": dict(self.untaken), "discovery": self.discovery}
        report |= {"since": self.since, "down": dict(self.down)}
        return json.dumps(report, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> NodeReport:
        """Read a report; raises `BadInput` if it is none."""
        try:
            report = json.loads(value)
            images = tuple(
                ImageReport(
                    uid=str(image["uid"]),
                    token=int(image["token"]),
                    exported=bool(image["exported"]),
                    error=str(image.get("error", "")),
                    applied=int(image.get("applied", 0)),
                    since=str(image.get("since", "")),
                    paths=tuple(map(_path_report, image["paths"])),
                )
                for image in report["images"]
            )
            return cls(
                node=Label(str(report["node"])),
                version=str(report["version"]),
                sentence=str(report["sentence"]),
                images=images,
                obstacle=str(report.get("obstacle", "")),
                untaken={str(uid): str(reason) for uid, reason in report.get("untaken", {}).items()},
                discovery=int(report.get("discovery", 0)),
                since=str(report.get("since", "")),
                down={str(network): str(since) for network, since in report.get("down", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"a node's status is no report of ours: {error!r}") from None


def _path_form(path: PathReport) -> dict[str, Any]:
    form: dict[str, Any] = {"tag": path.tag, "up": path.up, "reason": path.reason, "since": path.since}
    return form if path.up else form | {"kind": path.kind.value}


def _path_report(form: Mapping[str, Any]) -> PathReport:
    reason, since = str(form.get("reason", "")), str(form.get("since", ""))
    return PathReport(int(form["tag"]), bool(form["up"]), reason, since, Down(form.get("kind")))


@dataclass(frozen=True)
class PathStatus:
    """One path as people see it; `since` when it has been so, if somebody said.

    `kind` is the reason in one word, None if it is up.
    """

    tag: int
    address: str
    port: int
    network: str
    state: str
    reason: str
    since: str = ""
    kind: Down | None = None

    def as_dict(self) -> dict[str, Any]:
        """The path as `--json` prints it."""
        return vars(self) | {"kind": self.kind.value if self.kind else None}


@dataclass(frozen=True)
class ImageStatus:
    """One image as people see it; fields of a broken spec are None. `since` when it has been so, if its holder said."""

    name: str
    iqn: str | None
    serial: str | None
    size: int | None
    holder: str | None
    state: ImageState
    reason: str
    paths: tuple[PathStatus, ...]
    pin: str | None = None
    keep_away: tuple[str, ...] = ()
    since: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The image as `--json` prints it."""
        values = {
            key: getattr(self, key) for key in ("name", "iqn", "serial", "size", "holder", "reason", "since", "pin")
        }
        words = {"state": self.state.value, "keep_away": list(self.keep_away)}
        return values | words | {"paths": [path.as_dict() for path in self.paths]}


@dataclass(frozen=True)
class NodeStatus:
    """One node as people see it; `images` are those it holds, `why` is what an operator said of its state.

    `obstacle` is why it can serve nothing now, by its own word, and `since` since when; empty if it can. `down` are the
    networks that are down there, and since when.
    """

    name: str
    state: NodeState
    live: bool
    networks: tuple[str, ...]
    images: tuple[str, ...]
    version: str | None
    reason: str
    weight: int = USUAL_WEIGHT
    why: str = ""
    obstacle: str = ""
    since: str = ""
    down: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The node as `--json` prints it."""
        keys = ("name", "live", "version", "reason", "weight", "why", "obstacle", "since")
        values = {key: getattr(self, key) for key in keys}
        values |= {"down": dict(self.down)}
        return values | {"state": self.state.value, "networks": list(self.networks), "images": list(self.images)}


def image_statuses(view: ClusterView, reports: Mapping[Label, NodeReport]) -> tuple[ImageStatus, ...]:
    """Every image, readable or not, by name."""
    broken = [
        ImageStatus(name, None, None, None, None, ImageState.BROKEN, reason, ())
        for name, reason in view.broken.items()
        if name not in {str(known) for known in view.images}
    ]
    placement, told = Placement(view), _Told(reports)
    whole = [_image_status(placement, spec, told) for spec in view.images.values()]
    return tuple(sorted([*broken, *whole], key=lambda image: image.name))


def node_statuses(view: ClusterView, reports: Mapping[Label, NodeReport]) -> tuple[NodeStatus, ...]:
    """Every node that ever joined, by name."""
    names = {spec.uid: str(name) for name, spec in view.images.items()}
    statuses = []
    for node in sorted(set(view.nodes) | set(view.live)):
        live, report = view.live.get(node), reports.get(node)
        held = sorted(names.get(uid, uid) for uid, claim in view.claims.items() if claim.node == node)
        record = view.nodes.get(node, NodeRecord())
        statuses.append(
            NodeStatus(
                name=str(node),
                state=record.state,
                live=live is not None,
                networks=tuple(str(network) for network in live.networks) if live else (),
                images=tuple(held),
                version=live.version if live else None,
                reason=_reason_of_node(view, node, report),
                weight=record.weight,
                why=record.why,
                obstacle=live.obstacle if live else "",
                since=report.since if live and report and live.obstacle else "",
                down=report.down if live and report else {},
            )
        )
    return tuple(statuses)


def _reason_of_node(view: ClusterView, node: Label, report: NodeReport | None) -> str:
    live = view.live.get(node)
    if live is None:
        return "its lease has run out: the agent, the machine or its way to etcd is down"
    if node not in view.nodes:
        return "what is asked of it cannot be read from etcd, so it takes nothing"
    sentence = report.sentence if report else ""
    if live.obstacle and live.obstacle not in sentence:
        return "; ".join(word for word in (sentence, f"can serve nothing: {live.obstacle}") if word)
    return sentence


class _Told:
    """What the nodes' reports say of images, found by node, uid and token."""

    def __init__(self, reports: Mapping[Label, NodeReport]) -> None:
        self.reports = reports
        self._images = {
            (node, image.uid, image.token): image for node, report in reports.items() for image in report.images
        }

    def under(self, uid: str, claim: Claim | None) -> ImageReport | None:
        """What its holder says of an image under its present claim."""
        return self._images.get((claim.node, uid, claim.token)) if claim else None


def _image_status(placement: Placement, spec: ImageSpec, told_by: _Told) -> ImageStatus:
    claim = placement.view.claims.get(spec.uid)
    holder = claim.node if claim else None
    report, reports = told_by.under(spec.uid, claim), told_by.reports
    state, reason = _state(placement, spec, holder, report)
    if state is ImageState.UNCLAIMED:
        reason = _why_unclaimed(placement, spec, reports)
    told = {path.tag: path for path in report.paths} if report and report.exported else {}
    paths = []
    for path in spec.paths:
        word = told.get(path.tag, PathReport(path.tag, up=False, reason=reason or state.value, kind=_DOWN_IN[state]))
        paths.append(
            PathStatus(
                tag=path.tag,
                address=str(path.address),
                port=path.port,
                network=str(path.network),
                state="up" if word.up else "down",
                reason=word.reason,
                since=word.since,
                kind=None if word.up else word.kind,
            )
        )
    return ImageStatus(
        name=str(spec.name),
        iqn=str(spec.identity.iqn),
        serial=spec.identity.serial,
        size=spec.size,
        holder=str(holder) if holder else None,
        state=state,
        reason=reason,
        paths=tuple(paths),
        pin=str(spec.pin) if spec.pin else None,
        keep_away=tuple(str(node) for node in spec.keep_away),
        since=_since(state, report),
    )


def _since(state: ImageState, report: ImageReport | None) -> str:
    """Since when the image has been in that state: a degraded one since the first of the paths that are down."""
    if report is None or state in (ImageState.STOPPED, ImageState.DELETING, ImageState.BROKEN):
        return ""
    if state is ImageState.DEGRADED:
        return min((path.since for path in report.paths if not path.up and path.since), default="")
    return report.since


_DOWN_IN = {
    ImageState.SERVING: Down.UNKNOWN,
    ImageState.DEGRADED: Down.UNKNOWN,
    ImageState.STARTING: Down.STARTING,
    ImageState.FAILED: Down.FAILURE,
    ImageState.UNCLAIMED: Down.NO_HOLDER,
    ImageState.STOPPED: Down.NO_HOLDER,
    ImageState.DELETING: Down.NO_HOLDER,
    ImageState.BROKEN: Down.UNKNOWN,
}
"""Why a path of which nothing was told is down, in one word."""


def _why_unclaimed(placement: Placement, spec: ImageSpec, reports: Mapping[Label, NodeReport]) -> str:
    view, order = placement.view, placement.candidates(spec)
    said = {node: report.obstacle for node, report in reports.items() if report.obstacle and node in view.live}
    refused = {node: report.untaken[spec.uid] for node, report in reports.items() if spec.uid in report.untaken}
    if order:
        told = [f"{each.node} takes nothing: {said[each.node]}" for each in order if each.node in said]
        told += [f"{each.node} cannot: {refused[each.node]}" for each in order if each.node in refused]
        return "; ".join([f"next is {order[0].reason}", *told])
    why = {node: why_not(view, spec, node) for node in sorted(set(view.nodes) | set(view.live))}
    why |= {node: f"can serve nothing: {obstacle}" for node, obstacle in said.items()}
    words = "; ".join(f"{node} {reason}" for node, reason in why.items())
    return "no node can take it: " + (words or "none ever joined")


def _state(
    placement: Placement, spec: ImageSpec, holder: Label | None, report: ImageReport | None
) -> tuple[ImageState, str]:
    view = placement.view
    if str(spec.name) in view.broken:
        return ImageState.BROKEN, view.broken[str(spec.name)]
    if spec.deleting:
        return ImageState.DELETING, f"{holder} still has to let it go" if holder else "run `image delete` to finish"
    if spec.stopped:
        return ImageState.STOPPED, f"{holder} still has to let it go" if holder else "run `image start` to serve it"
    return (ImageState.UNCLAIMED, "") if holder is None else _state_of_held(placement, spec, holder, report)


def _state_of_held(
    placement: Placement, spec: ImageSpec, holder: Label, report: ImageReport | None
) -> tuple[ImageState, str]:
    if report is None:
        return ImageState.STARTING, f"{holder} has just claimed it"
    if not report.exported:
        if report.error:
            return ImageState.FAILED, report.error
        leaving = placement.should_leave(spec, holder)
        return ImageState.STARTING, f"{holder} is letting it go: {leaving}" if leaving else f"{holder} is taking it up"
    down = [f"path {path.tag}: {path.reason}" for path in report.paths if not path.up]
    if down:
        return ImageState.DEGRADED, "; ".join(down)
    return ImageState.SERVING, report.error
