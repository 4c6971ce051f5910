"""The cluster as people see it, from one read of etcd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.errors import BadInput, NotFound
from gateway.model import ClusterView, ImageName, Label
from gateway.report import ImageStatus, NodeReport, NodeStatus, image_statuses, node_statuses
from gateway.store.cluster import ClusterStore


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


def look(store: ClusterStore) -> ClusterStatus:
    """The cluster now; a node's report that cannot be read counts as none."""
    view, statuses = store.view_with_statuses()
    reports = {}
    for node, value in statuses.items():
        try:
            reports[node] = NodeReport.from_json(value)
        except BadInput:
            continue
    return ClusterStatus(view, reports, image_statuses(view, reports), node_statuses(view, reports))
