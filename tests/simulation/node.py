"""One gateway on the stage: the product's agent and guard over a fake kernel, and what can befall them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cycle import Cycle, Turn
from agent.keeper import inherited
from agent.membership import Membership
from agent.reachability import Reachability
from agent.requests import RequestLedger
from gateway.model import ImageSpec, Instance, Label, Path
from gateway.observed import Interface, Kernel, Mapping, Portal
from gateway.storage import CephStorage
from gateway.timers import Timers
from tests.simulation.daemons import MemoryRuntime, StagedGuard, StagedKeeper, StagedProber, StagedWorkers
from tests.simulation.kernel import NodeKernel, NodeLog
from tests.simulation.signals import StagedWake
from tests.simulation.stage import Process
from tests.simulation.ways import NodeEtcd, NodeLink, NodeStore, Ways, connection_of

if TYPE_CHECKING:
    from tests.simulation.world import World

PREFIX = "/rbdgate/default/"
RESTART = 1.0
"""Seconds after which systemd starts a dead agent again."""


class Node:
    """A machine; `rate` is how fast its clocks run."""

    def __init__(self, world: World, number: int, rate: float) -> None:
        self.world, self.number, self.rate = world, number, rate
        self.name = Label(f"gw{number}")
        self.timers = Timers()
        self.ways = Ways()
        self.paused = False
        self.boot = 0
        self.booted = 0.0
        self.resumed = -100.0
        self.agent: Process | None = None
        self.guard: Process | None = None
        self.cycle: Cycle | None = None
        self.turned: Turn | None = None
        self.store: NodeStore | None = None
        self.power_on()

    def clock(self) -> float:
        """Seconds on this boot's CLOCK_BOOTTIME."""
        return 1000.0 + (self.world.stage.now - self.booted) * self.rate

    @property
    def boot_id(self) -> str:
        """Which boot of which machine this is."""
        return f"{self.name}-{self.boot}"

    @property
    def powered(self) -> bool:
        """Whether the machine is on."""
        return self.guard is not None

    @property
    def guarded(self) -> bool:
        """Whether the guard is at work."""
        guard = self.guard
        return guard is not None and not (guard.dead or guard.stopped or any(actor.held for actor in guard.actors))

    def power_on(self) -> None:
        """Boot, with an empty kernel."""
        stage = self.world.stage
        self.boot, self.booted, self.paused = self.boot + 1, stage.now, False
        links = {
            network.name: Interface(f"eth{i}", i, up=True, addresses=frozenset())
            for i, network in enumerate(self.world.networks)
        }
        self.kernel = NodeKernel(self.world.rados, str(self.name), links, stage, self.ways)
        self.kernel._nonce = self.boot * 1000  # no instance of an earlier boot comes again
        self.kernel.in_flight, self.kernel.next_serial = self.world.flights.in_flight, self.world.next_serial
        self.kernel.said = lambda text: self.world.say(f"{self.name} {text}")
        self.runtime = MemoryRuntime(lambda: self.clock() if self.guarded else None)
        self.log = NodeLog()
        self.guard = Process(stage, self, f"{self.name} guard")
        workers = StagedWorkers(
            self.guard, slots=8, retry_first=0.1, retry_last=1.0, on_done=lambda: None, clock=self.clock
        )
        guard = StagedGuard(
            stage,
            self.rate,
            boot_id=self.boot_id,
            timers=self.timers,
            runtime=self.runtime,
            kernel=self.kernel,
            workers=workers,
            clock=self.clock,
        )
        self.guard.spawn("guard", guard.run)
        self.start_agent()

    def power_off(self) -> None:
        """A power cut."""
        for process in (self.agent, self.guard):
            if process is not None:
                process.kill()
        self.agent = self.guard = self.cycle = None
        self.paused = False

    def kill_agent(self) -> None:
        """SIGKILL; systemd starts it again."""
        if self.agent is not None:
            self.agent.kill()
            self.agent = self.cycle = None
            boot = self.boot
            self.world.stage.after(RESTART, lambda: self._restart(boot))

    def _restart(self, boot: int) -> None:
        if self.powered and self.boot == boot and self.agent is None:
            self.start_agent()

    def start_agent(self) -> None:
        """Put the agent together and let it run."""
        stage, rate = self.world.stage, self.rate
        process = self.agent = Process(stage, self, f"{self.name} agent")
        self.wake = wake = StagedWake(stage, rate)
        etcd = NodeEtcd(self.world.etcd, stage, self.ways, rate)
        self.store = store = NodeStore(etcd, PREFIX, clock=self.clock)
        store.said = lambda text: self.world.say(f"{self.name} {text}")
        link = NodeLink(process, self._connect, lambda: wake.set("storage"))
        reachability = Reachability(self.timers, self.clock())
        membership = Membership(
            node=self.name,
            version="1",
            boot_id=self.boot_id,
            timers=self.timers,
            store=store,
            leases=NodeStore(etcd, PREFIX, clock=self.clock),
            lease_client=etcd,  # type: ignore[arg-type] # it has what is asked of it
            link=link,  # type: ignore[arg-type] # likewise
            kernel=self.kernel,
            runtime=self.runtime,
            on_change=wake.set,
            clock=self.clock,
            reachability=reachability,
            requests=RequestLedger(self.log, self.runtime, self.boot_id),
            keeper=lambda *words, **named: StagedKeeper(process, rate, *words, **{**named, "clock": self.clock}),
        )
        prober = StagedProber(
            process,
            rate,
            reachability,
            link,
            timers=self.timers,
            on_change=lambda: wake.set("storage"),
            on_blocklisted=membership.client_fenced,
            clock=self.clock,
        )
        workers = StagedWorkers(
            process,
            slots=8,
            retry_first=self.timers.retry_first,
            retry_last=self.timers.retry_last,
            on_done=lambda: wake.set("worker"),
            clock=self.clock,
        )
        self.cycle = cycle = WatchedCycle(
            node=self.name,
            version="1",
            timers=self.timers,
            membership=membership,
            observer=self.kernel,
            workers=workers,
            wake=wake,
            guard_sign=self.runtime.guard_sign,
            on_turn=self.runtime.write_cycle_sign,
            clock=self.clock,
        )
        cycle.home = self
        link.start()
        prober.start()

        def body() -> None:
            tenure = inherited(self.runtime, self.boot_id, str(self.name), self.clock())
            if tenure is not None:
                membership.adopt(membership.keep(tenure))
            cycle.run()

        process.spawn("cycle", body)

    def _connect(self) -> CephStorage:
        client = Instance(f"10.0.1.{self.number}:0/{self.world.next_serial()}")
        connection = connection_of(self.world.rados, client, self.world.stage, self.ways)
        connection.calling("connect")
        return CephStorage(connection, self.name)  # type: ignore[arg-type] # as much of a connection as is used

    def thaw(self) -> None:
        """Let go on what may."""
        for process in (self.agent, self.guard):
            if process is not None:
                process.thaw()

    def mapping_of(self, spec: ImageSpec) -> Mapping | None:
        """What the image's export sits on."""
        devices = self.kernel.state.devices_of(spec.uid)
        paths = {device.dev_path for device in devices}
        return next((m for m in self.kernel.state.mappings if m.dev_path in paths), None)

    def answers(self, spec: ImageSpec, path: Path) -> int | None:
        """The token of the export that an initiator finds at that path now; None if nobody answers."""
        if not self.powered or self.paused:
            return None
        return door(self.kernel.state, spec, path)

    def serves(self, spec: ImageSpec) -> int | None:
        """The token of the export, if any path answers."""
        if not self.powered or self.paused or not self.kernel.state.addresses:
            return None
        return next((token for path in spec.paths if (token := door(self.kernel.state, spec, path)) is not None), None)


class WatchedCycle(Cycle):
    """The real cycle; what its last turn was is remembered for the end of a schedule."""

    home: Node

    def turn(self) -> Turn | None:
        """One turn."""
        self.home.turned = None
        turn = super().turn()
        self.home.turned = turn
        return turn


def door(kernel: Kernel, spec: ImageSpec, path: Path) -> int | None:
    """The token of the export that answers at that address, if one does: address, no cut, portal, enabled, LUN."""
    if path.address not in kernel.addresses or path.address in kernel.cuts:
        return None
    target = kernel.target(spec.identity.iqn)
    tpg = target.tpg(path.tag) if target else None
    if tpg is None or not tpg.enabled or tpg.device is None or Portal(path.address, path.port) not in tpg.portals:
        return None
    return tpg.device.token
