"""Guests: one per image writes growing numbers to one block, one at a time, and remembers what was acknowledged.

A write goes through the target of the session's node into that node's krbd client; from there it lands on the OSD when
its time has come, whatever has become of the node by then, unless it never left it or the OSD refuses it. A command
whose session broke is given again, as it was, over the next session: so the earlier copy may still be under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import Blocklisted
from gateway.model import ImageSpec, Instance, Path

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.world import World

PERIOD = 0.7
"""Seconds between two looks of a guest."""


@dataclass(eq=False)
class Write:
    """A write under way: `on_wire` says that it has left its node, `over` that the node has its answer."""

    uid: str
    client: Instance
    serial: int
    number: int
    node: Node
    boot: int
    on_wire: bool
    landed: bool = False
    over: bool = False


@dataclass(frozen=True)
class Session:
    """A login: the very export of that node's that it was made to."""

    node: Node
    boot: int
    path: Path
    token: int


class Guest:
    """The initiator of one image."""

    def __init__(self, world: World, spec: ImageSpec) -> None:
        self.world, self.spec = world, spec
        self.acked = 0
        self.slow = 0.0
        """How many seconds a write that begins now stays under way."""
        self.session: Session | None = None
        self.waiting: Write | None = None
        world.stage.at(world.stage.random.uniform(0, PERIOD), self.tick)

    def tick(self) -> None:
        """Log in where the image answers, then write."""
        self.world.stage.after(PERIOD, self.tick)
        if self.session is not None and not self._alive(self.session):
            self.session = self.waiting = None
        if self.session is None:
            self._log_in()
        if self.session is not None and self.waiting is None:
            self._write(self.session)

    def landed(self, write: Write) -> None:
        """The write has been carried out: if its session still is there, the guest hears so."""
        if self.waiting is write:
            self.waiting = None
            if self.session is not None and self._alive(self.session) and self.session.node is write.node:
                self.acked = max(self.acked, write.number)

    def failed(self, write: Write) -> None:
        """The write ended in an error: log in anew."""
        if self.waiting is write:
            self.session = self.waiting = None

    def _alive(self, session: Session) -> bool:
        node = session.node
        return node.boot == session.boot and node.answers(self.spec, session.path) == session.token

    def _log_in(self) -> None:
        doors = [
            Session(node, node.boot, path, token)
            for node in self.world.nodes
            for path in self.spec.paths
            for token in [node.answers(self.spec, path)]
            if token is not None
        ]
        if not doors:
            return
        session = self.world.stage.random.choice(doors)
        mapping = session.node.mapping_of(self.spec)
        if mapping is None or session.node.ways.ceph:
            return
        try:
            self.world.flights.access(
                self.spec.uid, mapping.instance, session.node.kernel.serials.get(mapping.number, 0)
            )
        except Blocklisted:
            return
        self.session = session

    def _write(self, session: Session) -> None:
        mapping = session.node.mapping_of(self.spec)
        if mapping is None:
            return
        write = Write(
            uid=self.spec.uid,
            client=mapping.instance,
            serial=session.node.kernel.serials.get(mapping.number, 0),
            number=self.acked + 1,
            node=session.node,
            boot=session.boot,
            on_wire=not session.node.ways.ceph,
        )
        self.waiting = write
        self.world.flights.send(write, self.slow or self.world.stage.latency(0.3))
