"""The collector: what a scrape is answered with, from what was published and two small files; it waits for nobody.

Per scrape it reads `/proc/diskstats`, the guard's sign and the guard's figures, however many images there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from agent.monitoring.cluster_figures import cluster_figures
from agent.monitoring.counts import Counts
from agent.monitoring.disks import DISKSTATS, read_disks
from agent.monitoring.families import gauge, one, total
from agent.monitoring.guard_figures import guard_figures
from agent.monitoring.guard_file import GuardWord, read_word
from agent.monitoring.kernel_figures import disk_figures, held_figures, kernel_figures, table_figures, tables_of
from agent.monitoring.readiness import Live
from agent.monitoring.sights import STALE, ClusterSight, HeldSight, KernelSight
from gateway.reasons import Obstacle
from gateway.store.values import MemberStatus
from gateway.timers import Timers


@dataclass(frozen=True)
class Sources:
    """What else is asked, none of which blocks: other threads' counts, under locks that are held for a moment."""

    node: str
    version: str
    timers: Timers
    live: Live
    guard_file: Path
    members: Callable[[float], dict[str, MemberStatus | None]]
    at_work: Callable[[], int]
    failing: Callable[[], int]
    events: Callable[[], tuple[int, int]]
    """How many events wait, and how many were lost."""
    given_up: Callable[[], bool | None]
    diskstats: Path = DISKSTATS


def registry_of(counts: Counts, sources: Sources) -> CollectorRegistry:
    """Everything that is shown: the counts' own registry, with the collector and the process's figures added."""
    registry = counts.registry
    registry.register(FigureCollector(sources))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class FigureCollector(Collector):
    """Makes the figures anew for each scrape."""

    def __init__(self, sources: Sources) -> None:
        self._of = sources

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before it is asked for: the registry need not collect to find names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All figures that are known now."""
        live, now = self._of.live, self._of.live.clock()
        board, names = live.board, live.board.names()
        cluster, kernel, held = board.cluster, board.kernel, board.held
        word = read_word(self._of.guard_file, now)
        yield from self._agent(now)
        yield from guard_figures(live.guard_sign(), now, word, names)
        yield from self._stores(now)
        if cluster is not None and now - cluster.at < STALE:
            yield from cluster_figures(cluster)
        if kernel is not None and now - kernel.at < STALE and cluster is not None:
            yield from kernel_figures(kernel, cluster)
            if held is not None and now - held.at < STALE:
                yield from self._held(held, kernel, cluster, word)

    def _held(
        self, held: HeldSight, kernel: KernelSight, cluster: ClusterSight, word: GuardWord | None
    ) -> Iterator[Metric]:
        names = self._of.live.board.names()
        yield from held_figures(held, kernel, names)
        disks = read_disks(self._of.diskstats)
        ours = {uid: kernel.disks[uid] for image in held.images if (uid := image.uid) in kernel.disks}
        yield from disk_figures({names.get(uid, uid): disks[disk] for uid, disk in ours.items() if disk in disks})
        tables = tables_of(held, self._of.live.board.tables, word)
        keeping = {spec.uid for spec in cluster.view.images.values() if spec.attributes.emulate_pr}
        known = {names.get(uid, uid): table for uid, table in tables.items() if uid in keeping}
        crowded = {names.get(uid, uid): count for uid, count in kernel.kernel.crowded.items() if uid in keeping}
        yield from table_figures(known, crowded)

    def _agent(self, now: float) -> Iterator[Metric]:
        live, board, tenure = self._of.live, self._of.live.board, self._of.live.tenure()
        info = (((self._of.node, self._of.version), 1),)
        yield gauge("agent_info", "The agent that was scraped.", ("node", "version"), info)
        yield one("lease_ttl_seconds", "The lease's TTL as set.", self._of.timers.lease_ttl)
        age = now - (tenure.end - self._of.timers.tenure) if tenure.lease and tenure.end else None
        yield one("lease_age_seconds", "Since the newest proven renewal was sent.", age)
        yield one("tenure_left_seconds", "For how long this gateway may serve.", max(0.0, tenure.end - now))
        yield one("claims", "Images held, as last proven under the lease.", len(tenure.claims))
        parts = (((part,), not wrong) for part, wrong in live.missing().items())
        yield gauge("node_ready", "What serving needs.", ("part",), parts)
        yield gauge("node_obstacle", "Why this gateway takes no image.", ("reason",), self._obstacles(now))
        read = None if board.cluster is None else board.cluster.wall
        yield one("cluster_read_timestamp_seconds", "When everything in etcd was last read.", read)
        yield one("cycle_last_turn_timestamp_seconds", "When the last turn ended.", board.turned_wall)
        yield one("cycle_last_success_timestamp_seconds", "When a turn last went well.", board.succeeded_wall)
        yield one("images_at_work", "Images whose steps are being taken.", self._of.at_work())
        yield one("images_failing", "Images whose last steps failed here.", self._of.failing())
        waiting, lost = self._of.events()
        yield one("events_waiting", "Events that are not written yet.", waiting)
        yield total("events_lost", "Events that could never be written.", lost)

    def _obstacles(self, now: float) -> Iterator[tuple[tuple[str], bool]]:
        """Of each whether it is in the way now; none is known where no turn has looked of late."""
        held = self._of.live.board.held
        if not self._of.live.tenure().runs(now):
            present: Obstacle | None = Obstacle.TENURE
        elif held is not None and now - held.at < STALE:
            present = held.obstacle
        else:
            return
        yield from (((each.value,), each is present) for each in Obstacle)

    def _stores(self, now: float) -> Iterator[Metric]:
        live, endpoint = self._of.live, ("endpoint",)
        members = self._of.members(now)
        up = (((each,), said is not None) for each, said in members.items())
        yield gauge("etcd_endpoint_up", "Whether the etcd member answered of late.", endpoint, up)
        said = [(each, status) for each, status in members.items() if status is not None]
        leader = (((each,), status.leader_id != 0) for each, status in said)
        yield gauge("etcd_endpoint_has_leader", "Whether it knows a leader.", endpoint, leader)
        size = (((each,), status.database_bytes) for each, status in said)
        yield gauge("etcd_endpoint_database_bytes", "Size of its database.", endpoint, size)
        connected = live.connected()
        reachable = connected and not live.reachability.doubted(now)
        yield one("rados_connected", "Whether the agent has a connection to Ceph.", connected)
        yield one("rados_reachable", "Whether Ceph answers this gateway.", reachable)
        silence = max(0.0, live.reachability.silence(now))
        yield one("rados_silence_seconds", "For how long nothing sent was answered.", silence)
        given_up = self._of.given_up()
        yield one("krbd_requests_given_up", "Whether this kernel gave a request to Ceph up.", given_up)
