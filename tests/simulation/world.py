"""The whole cluster on one stage: gateways, etcd, RADOS and guests; what is done to it, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from gateway.model import ClusterSettings, ImageSpec, Instance, Network
from gateway.store.cluster import ClusterStore
from gateway.timers import CLOCK_DRIFT
from tests.fakes.etcd import FakeEtcd
from tests.fakes.rados import FakeRados, on_fakes
from tests.simulation.flights import Flights
from tests.simulation.guests import Guest
from tests.simulation.node import PREFIX, Node
from tests.simulation.registrants import Registrants
from tests.simulation.stage import Stage, Violation
from tests.simulation.watch import Watch
from tests.simulation.words import Words

CALM_WITHIN = 240.0
"""How long a healed cluster may need until every image is served: a stuck device alone counts for 60 s."""

DRIFT = CLOCK_DRIFT * 0.99
"""By how much of a second each second a node's clock is fast or slow at most, against etcd's."""

NEWS_WITHIN = 2.0
"""Where OSDs hear of a new map by themselves: how long that takes at most, in seconds."""


@dataclass(frozen=True)
class Shape:
    """The first line of a schedule; see the module."""

    seed: int
    nodes: int
    images: int
    locks: bool
    news: bool

    @classmethod
    def parse(cls, line: str) -> Shape:
        """Read `world seed=7 nodes=3 images=1 locks=1 news=1`."""
        word, *pairs = line.split()
        found = {name: int(value) for name, _, value in (pair.partition("=") for pair in pairs)}
        if word != "world" or set(found) != {field.name for field in fields(cls)}:
            raise ValueError(f"a schedule begins with its world, not with {line!r}")
        return cls(found["seed"], found["nodes"], found["images"], bool(found["locks"]), bool(found["news"]))

    def __str__(self) -> str:
        return "world " + " ".join(f"{field.name}={int(getattr(self, field.name))}" for field in fields(self))


class World:
    """See the module. `told` is the transcript."""

    def __init__(self, shape: Shape, specs: tuple[ImageSpec, ...], networks: tuple[Network, ...]) -> None:
        self.stage = stage = Stage(shape.seed)
        self.networks, self.specs = networks, specs
        self.told: list[str] = []
        self.rados = FakeRados()
        self.etcd = FakeEtcd(lambda: stage.now)
        self.store = ClusterStore(self.etcd, PREFIX, clock=lambda: stage.now)
        self.store.initialise(ClusterSettings("fsid", networks, "rbd"))
        self.flights, self.watch, self.words = Flights(self), Watch(self), Words(self)
        self._serial = self._heard = 0
        self._news = shape.news
        for spec in specs:
            self.rados.add_image(spec.name, spec.image_id, spec.size, exclusive=shape.locks)
            self.store.create_image(spec)
        self.rados.on_fence, self.rados.on_change, self.rados.answers = self._fencing, stage.change, self._answers
        rates = [1.0 + stage.random.uniform(-DRIFT, DRIFT) for _ in range(shape.nodes)]
        self.nodes = [Node(self, number, rate) for number, rate in enumerate(rates, start=1)]
        self.registrants = Registrants(self)
        self.guests = {spec.uid: Guest(self, spec) for spec in specs}
        stage.check, stage.passing = self.watch.check, self.words.passing
        stage.after(0.25, self._watch_etcd)

    def do(self, line: str) -> None:
        """Carry one line out; Violation if anything is wrong on the way."""
        self.told.append(f"> {line}")
        with on_fakes():
            self.words.do(line.split())

    def settle(self) -> None:
        """Heal everything, and see every image served and every node at rest; Violation if that does not come."""
        self.told.append("> settle")
        with on_fakes():
            for node in self.nodes:
                self.words.do([str(node.name), "heal"])
            marks = {uid: guest.acked for uid, guest in self.guests.items()}
            end = self.stage.now + CALM_WITHIN
            unrest = "nothing was looked at"
            while self.stage.now < end:
                self.stage.run(1.0)
                unrest = self.watch.unrest(marks)
                if not unrest:
                    for spec in self.specs:
                        self.expect(self.registrants.wrong(spec))
                    self.stage.raise_failure()
                    return
        wrong = f"{CALM_WITHIN:g} s after all faults ended, {unrest}"
        self.say(f"WRONG: {wrong}")
        raise Violation(wrong)

    def end(self) -> None:
        """Leave nothing behind."""
        for node in self.nodes:
            node.power_off()

    def say(self, text: str) -> None:
        """Add to the transcript."""
        self.told.append(f"  {self.stage.now:6.2f}s {text}")

    def next_serial(self) -> int:
        """A number higher than all before it."""
        self._serial += 1
        return self._serial

    def expect(self, wrong: str | None) -> None:
        """End everything if something is wrong."""
        if wrong:
            self.say(f"WRONG: {wrong}")
            self.stage.fail(wrong)

    def _watch_etcd(self) -> None:
        self.stage.after(0.25, self._watch_etcd)
        revision = self.etcd.get("") is None and self.etcd.revision
        if revision != self._heard:
            self._heard = int(revision)
            for node in self.nodes:
                if node.cycle is not None and not node.ways.etcd:
                    node.wake.set("etcd")

    def _answers(self, client: Instance) -> bool:
        hosts = (n for n in self.nodes if n.powered and not n.paused and not n.ways.ceph)
        return any(m.instance == client for node in hosts for m in node.kernel.state.mappings)

    def _fencing(self, victim: Instance, by: Instance | None) -> None:
        self.say(f"{by or 'a kernel'} fences {victim}")
        self.watch.fencing(victim, by)
        if self._news:
            self.stage.after(self.stage.random.uniform(0.0, NEWS_WITHIN), self.rados.news)
