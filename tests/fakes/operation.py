"""A whole cluster in memory for the operator's side: etcd, Ceph, agents, and a clock that only waiting moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID, uuid5

from gateway.actions.waiting import Patience
from gateway.model import ClusterSettings, Network
from gateway.store.cluster import ClusterStore
from tests.fakes.agent import FakeAgent
from tests.fakes.ceph import FakeCeph
from tests.fakes.etcd import FakeEtcd

SETTINGS = ClusterSettings(
    fsid="6f0d4f0a-0000-4000-8000-000000000000",
    networks=(
        Network.parse("storage-1=10.0.1.0/24,10.0.1.100-10.0.1.103"),
        Network.parse("storage-2=fd77:2::/64,fd77:2::100-fd77:2::1ff"),
    ),
    anchor_pool="rbd",
)


@dataclass
class Operation:
    """Agents take a turn whenever somebody waits; `said` is what the waiting was told."""

    now: float = 0.0
    agents: list[FakeAgent] = field(default_factory=list)
    ceph: FakeCeph = field(default_factory=FakeCeph)
    said: list[str] = field(default_factory=list)
    drawn: int = 0

    def __post_init__(self) -> None:
        self.etcd = FakeEtcd(lambda: self.now)
        self.store = ClusterStore(self.etcd, "/rbdgate/default/", clock=lambda: self.now)

    def add_agents(self, count: int) -> None:
        """Let gw1, gw2, ... join."""
        for number in range(len(self.agents) + 1, len(self.agents) + count + 1):
            agent = FakeAgent(self.store, self.etcd, f"gw{number}", f"10.0.0.{number}")
            agent.ceph = self.ceph
            self.agents.append(agent)

    def settle(self) -> None:
        """Let every agent take two turns."""
        for agent in (*self.agents, *self.agents):
            agent.turn()

    def patience(self, timeout: float = 60.0) -> Patience:
        """Waiting that lets the agents act and the clock go on."""
        return Patience(timeout, self.said.append, clock=lambda: self.now, sleep=self._sleep)

    def random(self) -> UUID:
        """The next of a fixed row of UUIDs."""
        self.drawn += 1
        return uuid5(UUID(int=0), str(self.drawn))

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        for agent in self.agents:
            agent.turn()


def operation(agents: int = 2) -> Operation:
    """An initialised cluster with that many live gateways."""
    made = Operation()
    made.store.initialise(SETTINGS)
    made.add_agents(agents)
    return made
