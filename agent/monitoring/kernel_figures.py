"""The figures of this gateway's kernel: the images it holds, their devices and paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from agent.monitoring.disks import Disk
from agent.monitoring.families import counter, gauge, one
from agent.monitoring.guard_file import GuardWord
from agent.monitoring.sights import ClusterSight, HeldSight, KernelSight
from agent.monitoring.tables import Table
from gateway.plan import is_served
from gateway.reservations.state import MAX_REGISTRATIONS

_IMAGE, _DIRECTION, _PATH = ("image",), ("image", "direction"), ("image", "path", "network")


def kernel_figures(sight: KernelSight, cluster: ClusterSight) -> Iterator[Metric]:
    """What is known of the whole node; the cluster's view, however old, gives the names."""
    networks = (
        ((str(each.name),), (found := sight.kernel.networks.get(each.name)) is not None and found.up)
        for each in cluster.view.settings.networks
    )
    yield gauge("network_up", "Whether an interface here serves the network and has carrier.", ("network",), networks)
    served = (
        ((str(name), str(path.tag), str(path.network)), is_served(path, target, sight.kernel))
        for name, spec in cluster.view.images.items()
        if (target := sight.targets.get(str(spec.identity.iqn))) is not None
        for path in spec.paths
    )
    yield gauge("path_serving", "Whether this kernel answers at the path's address.", _PATH, served)


def held_figures(held: HeldSight, sight: KernelSight, names: Mapping[str, str]) -> Iterator[Metric]:
    """What is held here, by the last turn's word."""
    images = [(names.get(image.uid, image.uid), image) for image in held.images]
    exported = (((name,), image.exported) for name, image in images)
    yield gauge("image_exported", "Whether the export is complete under the present claim.", _IMAGE, exported)
    condemned = (((name,), image.uid in sight.kernel.condemned) for name, image in images)
    yield gauge("image_condemned", "Whether the export must not be reached and is built anew.", _IMAGE, condemned)
    sessions = (((name,), held.connections[i.uid]) for name, i in images if i.uid in held.connections)
    yield gauge("image_sessions", "iSCSI connections to the image's portals.", _IMAGE, sessions)


def disk_figures(disks: Mapping[str, Disk]) -> Iterator[Metric]:
    """What went through the images' block devices, by the image's name."""
    ways = [((name, word), way) for name, disk in disks.items() for word, way in disk.ways.items()]
    yield counter("image_bytes", "Bytes through the block device.", _DIRECTION, ((k, w.size) for k, w in ways))
    yield counter("image_operations", "Requests completed.", _DIRECTION, ((k, w.operations) for k, w in ways))
    times = ((key, way.seconds) for key, way in ways)
    yield counter("image_operation_time_seconds", "Time the requests took, summed.", _DIRECTION, times)
    busy = (((name,), disk.busy) for name, disk in disks.items())
    yield counter("image_busy_seconds", "Time in which a request was under way.", _IMAGE, busy)
    now = (((name,), disk.in_progress) for name, disk in disks.items())
    yield gauge("image_operations_in_progress", "Requests under way.", _IMAGE, now)


def table_figures(tables: Mapping[str, Table], crowded: Mapping[str, int]) -> Iterator[Metric]:
    """The recorded reservations, by the image's name; `crowded` counts those that are nearly full, known or not."""
    registrations = {**crowded, **{name: table.registrations for name, table in tables.items()}}
    count = (((name,), number) for name, number in registrations.items())
    yield gauge("reservation_registrations", "Registrations recorded.", _IMAGE, count)
    yield one("reservation_registrations_limit", "The most an image can have.", MAX_REGISTRATIONS)
    reserved = (((name,), table.reserved) for name, table in tables.items())
    yield gauge("reservation_held", "Whether a reservation is held on the image.", _IMAGE, reserved)
    size = (((name,), table.size) for name, table in tables.items())
    yield gauge("reservation_table_bytes", "Size of the recorded table.", _IMAGE, size)


def tables_of(held: HeldSight, restored: Mapping[str, tuple[int, Table]], word: GuardWord | None) -> dict[str, Table]:
    """What is known of the recorded reservations by uid: what this node restored, and what the guard recorded since.

    The guard forgets what it recorded when an export is built anew, so what it has is always the newer one.
    """
    tokens = {image.uid: image.token for image in held.images if image.exported}
    found = {uid: table for uid, (token, table) in restored.items() if tokens.get(uid) == token}
    newer = word.tables if word is not None else {}
    return found | {uid: table for uid, table in newer.items() if uid in tokens}
