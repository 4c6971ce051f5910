"""The figures of the cluster: what etcd says, so that every agent gives the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import Metric

from agent.monitoring.families import gauge, one
from agent.monitoring.sights import ClusterSight
from gateway.model import NodeState
from gateway.report import ImageState, ImageStatus

_UNWANTED = (ImageState.STOPPED, ImageState.DELETING, ImageState.BROKEN)


def cluster_figures(sight: ClusterSight) -> Iterator[Metric]:
    """All of them."""
    yield from _nodes(sight)
    yield from _images(sight)
    yield from _paths([image for image in sight.status.images if image.state not in _UNWANTED])


def _nodes(sight: ClusterSight) -> Iterator[Metric]:
    view, placement, node = sight.view, sight.placement, ("node",)
    nodes = sight.status.nodes
    fit = {str(each) for each in placement.fit}
    share = {str(each): figure for each, figure in placement.share.items()}
    yield gauge("cluster_node_live", "Whether the gateway has a lease.", node, (((n.name,), n.live) for n in nodes))
    yield gauge(
        "cluster_node_state",
        "What an operator asked of the gateway: 1 for the present state.",
        ("node", "state"),
        (((n.name, state.value), n.state is state) for n in nodes for state in NodeState),
    )
    yield gauge("cluster_node_fit", "Whether it can take images.", node, (((n.name,), n.name in fit) for n in nodes))
    yield gauge("cluster_node_images", "Images it holds.", node, (((n.name,), len(n.images)) for n in nodes))
    shares = (((n.name,), share.get(n.name, 0.0)) for n in nodes)
    yield gauge("cluster_node_images_share", "Images it should hold by its weight.", node, shares)
    up = Counter(network for each in placement.able for network in view.live[each].networks)
    networks = (((str(each.name),), up[each.name]) for each in view.settings.networks)
    yield gauge("cluster_network_nodes", "Gateways that can take images and have it up.", ("network",), networks)


def _images(sight: ClusterSight) -> Iterator[Metric]:
    view, images, label = sight.view, sight.status.images, ("image",)
    states = Counter(image.state for image in images)
    counted = (((state.value,), states[state]) for state in ImageState)
    yield gauge("cluster_images", "Images in each state.", ("state",), counted)
    yield one("cluster_images_misplaced", "Images that another gateway should hold.", sight.misplaced)
    yield one("cluster_moves", "Moves that are not finished.", len(view.moves))
    yield one("cluster_fences", "Client instances on record as fenced.", len(view.fences))
    known = [image for image in images if image.iqn is not None]
    info = (((image.name, str(image.iqn)), 1) for image in known)
    yield gauge("cluster_image_info", "The image's target.", ("image", "iqn"), info)
    state = (((image.name, image.state.value), 1) for image in images)
    yield gauge("cluster_image_state", "1, for the image's present state.", ("image", "state"), state)
    sizes = (((image.name,), image.size) for image in known if image.size is not None)
    yield gauge("cluster_image_size_bytes", "The size the image should have.", label, sizes)
    wanted = [image for image in images if image.state not in _UNWANTED]
    claimed = (((image.name,), image.holder is not None) for image in wanted)
    yield gauge("cluster_image_claimed", "Whether a gateway holds the image that should be served.", label, claimed)
    holders = (((image.name, image.holder), 1) for image in images if image.holder is not None)
    yield gauge("cluster_image_holder", "1, for the present holder.", ("image", "node"), holders)


def _paths(images: list[ImageStatus]) -> Iterator[Metric]:
    paths = [(image.name, str(path.tag), path) for image in images for path in image.paths]
    up = (((image, tag, path.network), path.state == "up") for image, tag, path in paths)
    yield gauge("cluster_path_up", "Whether the holder says that the path is up.", ("image", "path", "network"), up)
    down = (((image, tag, path.kind.value), 1) for image, tag, path in paths if path.kind is not None)
    what = "1 while the path is down, for the present reason."
    yield gauge("cluster_path_down_reason", what, ("image", "path", "reason"), down)
