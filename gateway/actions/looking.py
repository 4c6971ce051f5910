"""The cluster as people see it, from one read of etcd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.errors import BadInput, NotFound, RbdgateError
from gateway.events import Event
from gateway.model import ClusterView, ImageName, Label
from gateway.report import ImageStatus, NodeReport, NodeStatus, image_statuses, node_statuses
from gateway.store.cluster import ClusterStore
from gateway.trouble import Gravity, Trouble, troubles


@dataclass(frozen=True)
class ClusterStatus:
    """Everything at one revision: the images and nodes by name, and the view they were made of."""

    view: ClusterView
    reports: dict[Label, NodeReport]
    images: tuple[ImageStatus, ...]
    nodes: tuple[NodeStatus, ...]

    def image(self, name: ImageName) -> ImageStatus:
        """One image; NotFound."""
        found = next((image for image in self.images if image.name == str(name)), None)
        if found is None:
            raise NotFound(f"there is no image {name} in this cluster; see `rbdgate image list`")
        return found

    def node(self, name: Label) -> NodeStatus:
        """One node; NotFound."""
        found = next((node for node in self.nodes if node.name == str(name)), None)
        if found is None:
            raise NotFound(f"there is no node {name}: none of that name ever joined; see `rbdgate node list`")
        return found

    def as_dict(self) -> dict[str, Any]:
        """The cluster as `--json` prints it."""
        return {
            "images": [image.as_dict() for image in self.images],
            "nodes": [node.as_dict() for node in self.nodes],
        }


@dataclass(frozen=True)
class Watchful:
    """The cluster with what is wrong with it."""

    status: ClusterStatus
    troubles: tuple[Trouble, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as `--json` prints it."""
        return {"troubles": [trouble.as_dict() for trouble in self.troubles], **self.status.as_dict()}


def watch_over(store: ClusterStore) -> Watchful:
    """The cluster now and what is wrong with it; the log of events is read only if something is.

    Without the log, as when it cannot be read, some times are missing and nothing else.
    """
    found = judged(look(store))
    if any(trouble.gravity is Gravity.NOT_SERVED or not trouble.since for trouble in found.troubles):
        with suppress(RbdgateError):
            found = judged(found.status, store.events().read().events)
    return found


def judged(status: ClusterStatus, events: Sequence[Event] = ()) -> Watchful:
    """The cluster with what is wrong with it, as far as is known from it and these events, the newest last."""
    return Watchful(status, troubles(status.view.settings, status.images, status.nodes, events))


def look(store: ClusterStore) -> ClusterStatus:
    """The cluster now; a node's report that cannot be read counts as none."""
    return status_of(*store.view_with_statuses())


def status_of(view: ClusterView, statuses: Mapping[Label, bytes]) -> ClusterStatus:
    """The cluster as it was when these were read together."""
    reports = {}
    for node, value in statuses.items():
        try:
            reports[node] = NodeReport.from_json(value)
        except BadInput:
            continue
    return ClusterStatus(view, reports, image_statuses(view, reports), node_statuses(view, reports))
