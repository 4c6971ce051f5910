"""What the last turn saw, published for whoever shows it: frozen values, replaced whole, read without a lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from agent.monitoring.tables import Table
from gateway.actions.looking import ClusterStatus, Watchful, judged, status_of
from gateway.model import ClusterView, Label
from gateway.observed import Kernel, Target
from gateway.placement import Lately, Placement
from gateway.reasons import Obstacle
from gateway.report import ImageReport

STALE = 30.0
"""After how many seconds what was seen is not told any more: it is unknown by now."""


@dataclass(frozen=True)
class ClusterSight:
    """Everything in etcd, as read at `at` (seconds on CLOCK_BOOTTIME) or `wall` (Unix time)."""

    view: ClusterView
    statuses: Mapping[Label, bytes]
    at: float
    wall: float

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The images' names by uid; asked for many times a turn and a scrape."""
        return {spec.uid: str(name) for name, spec in self.view.images.items()}

    @cached_property
    def status(self) -> ClusterStatus:
        """The cluster as people see it."""
        return status_of(self.view, self.statuses)

    @cached_property
    def watchful(self) -> Watchful:
        """The same with what is wrong, as far as it is known without the log of events."""
        return judged(self.status)

    @cached_property
    def placement(self) -> Placement:
        """Who should hold what."""
        return Placement(self.view)

    @cached_property
    def misplaced(self) -> int:
        """How many images should be held elsewhere, whatever they wait for."""
        everybody = frozenset(self.view.live)
        lately = Lately(steady=everybody, settled=everybody)
        return sum(1 for _ in Placement(self.view).relocations(lately))


@dataclass(frozen=True)
class KernelSight:
    """This node's kernel as observed at `at`."""

    kernel: Kernel
    at: float

    @cached_property
    def targets(self) -> Mapping[str, Target]:
        """The iSCSI targets by name."""
        return {str(target.iqn): target for target in self.kernel.targets}

    @cached_property
    def disks(self) -> Mapping[str, str]:
        """The name in `/proc/diskstats` of each image that has a backstore here, by its uid."""
        return {device.name.uid: device.dev_path.removeprefix("/dev/") for device in self.kernel.devices}


@dataclass(frozen=True)
class HeldSight:
    """The images held here, as the last turn of a member reported them at `at`, with their connections by uid."""

    images: tuple[ImageReport, ...]
    connections: Mapping[str, int]
    obstacle: Obstacle | None
    at: float


@dataclass
class Board:
    """The newest of each; None until there is one."""

    cluster: ClusterSight | None = None
    kernel: KernelSight | None = None
    held: HeldSight | None = None
    turned: float | None = None
    """When the last turn ended, whatever came of it, on CLOCK_BOOTTIME."""
    turned_wall: float | None = None
    went: float | None = None
    """When a turn last ended that did not fail, though it may not have served, on CLOCK_BOOTTIME."""
    succeeded_wall: float | None = None
    """When a turn last went well, in Unix time; before the first, when the agent started."""
    tables: dict[str, tuple[int, Table]] = field(default_factory=dict)
    """The reservations this node restored last, by uid, with the token of the claim it did so under."""

    def names(self) -> Mapping[str, str]:
        """The images' names by uid, as last known."""
        cluster = self.cluster
        return {} if cluster is None else cluster.names
