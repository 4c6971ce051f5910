"""The monitor: hears what the cycle and its workers do, counts it, and keeps what the last turn saw for whoever asks.

It only listens: it raises nothing, blocks on nothing, and nothing is decided on what it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from agent.clock import boottime, wall_clock
from agent.following import Work
from agent.monitoring.counts import Counts, Kind, Outcome
from agent.monitoring.drift import DriftWatch
from agent.monitoring.sights import Board, ClusterSight, HeldSight, KernelSight
from agent.monitoring.tables import Table
from agent.takeover import Takeover
from gateway.model import ClusterView, FenceIntent, Instance, Label
from gateway.observed import Kernel
from gateway.reasons import Obstacle
from gateway.report import NodeReport
from gateway.steps import Claim, Plan, Release, Step


@dataclass(frozen=True)
class Ended:
    """How a turn of a member ended: what it read, planned and reported; `busy` are the images at work when it began,
    `proven` is the end of the tenure that it planned by (CLOCK_BOOTTIME), which may be over."""

    view: ClusterView
    kernel: Kernel
    plan: Plan
    busy: AbstractSet[str]
    report: NodeReport
    connections: Mapping[str, int]
    obstacle: Obstacle | None
    proven: float


class Monitor:
    """One agent's; `clock` is CLOCK_BOOTTIME, `wall` Unix time, both in seconds."""

    def __init__(self, clock: Callable[[], float] = boottime, wall: Callable[[], float] = wall_clock) -> None:
        self._clock, self._wall = clock, wall
        self.counts, self.board = Counts(), Board(succeeded_wall=wall())
        self.started = clock()
        self._lock = threading.Lock()
        self._kinds: dict[str, Kind] = {}
        self._drift = DriftWatch()
        self._proven = 0.0

    def read(self, view: ClusterView, statuses: Mapping[Label, bytes]) -> None:
        """Everything in etcd was read."""
        self.board.cluster = ClusterSight(view, statuses, self._clock(), self._wall())

    def observed(self, kernel: Kernel) -> None:
        """This node's kernel was observed."""
        self.board.kernel = KernelSight(kernel, self._clock())

    def reported(self, ended: Ended) -> None:
        """A turn of a member told what it found."""
        report, now = ended.report, self._clock()
        self.board.held = HeldSight(report.images, ended.connections, ended.obstacle, now)
        names = self.board.names()
        if now >= min(self._proven, ended.proven):  # without a tenure this turn withdrew, or the guard since the last
            self._drift.forget()
        self._proven = ended.proven
        for image in report.images:
            self.counts.held(names.get(image.uid, image.uid))
        for uid, drift in self._drift.look(ended.view, ended.kernel, ended.plan, ended.busy, report):
            self.counts.drifted(names.get(uid, uid), drift)
        self.counts.keep_only(frozenset(names.values()))
        held = {image.uid for image in report.images}
        self.board.tables = {uid: table for uid, table in self.board.tables.items() if uid in held}
        known = self.board.names().keys()
        with self._lock:
            self._kinds = {uid: kind for uid, kind in self._kinds.items() if uid in known}

    def turned(self, outcome: Outcome, seconds: float) -> None:
        """A turn ended."""
        self.counts.turned(outcome, seconds)
        self.board.turned, self.board.turned_wall = self._clock(), self._wall()
        if outcome is not Outcome.FAILED:
            self.board.went = self.board.turned
        if outcome is Outcome.DONE:
            self.board.succeeded_wall = self._wall()
        else:
            self._drift.forget()
        if outcome is Outcome.NOT_SERVING:
            self.board.held = None

    def restored(self, uid: str, token: int, table: Table) -> None:
        """These reservations were read to be restored under that claim."""
        self.board.tables = {**self.board.tables, uid: (token, table)}

    def fenced(self, intents: tuple[FenceIntent, ...]) -> None:
        """These clients were fenced for an image, and that was confirmed."""
        with self._lock:
            self._kinds |= {intent.image_uid: Kind.TAKEOVER for intent in intents}

    def fenced_again(self, instances: AbstractSet[Instance]) -> None:
        """These had vanished from the blocklist."""
        self.counts.restored(len(instances))

    def served(self, uid: str, takeover: Takeover) -> None:
        """An image was brought up here."""
        with self._lock:
            kind = self._kinds.pop(uid, Kind.AGAIN)
        self.counts.came_up(kind, takeover.seconds, takeover.phases)

    def begins(self, work: Work, step: Step) -> None:
        """A step is about to be taken."""
        if isinstance(step, Claim):
            cluster = self.board.cluster
            moves = cluster is not None and work.key in cluster.view.moves
            with self._lock:
                self._kinds[work.key] = Kind.MOVE if moves else Kind.START

    def did(self, work: Work, step: Step, began: float) -> None:  # noqa: ARG002 - other listeners want it
        """A step was taken."""
        self.counts.took(step)
        if isinstance(step, Release):
            self.counts.let_go(self._clock() - work.began)

    def failed(self, work: Work, step: Step, error: Exception) -> None:
        """A step failed."""
        self.counts.failed(step, self.board.names().get(work.key, ""), error)

    def withdrew(self, work: Work) -> None:
        """The steps are counted one by one."""
