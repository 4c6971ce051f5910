"""The whole cluster on one stage: gateways, etcd, RADOS, guests; what is done to it is words, what comes of it is told.

A *schedule* is a list of lines. The first makes the world, the others do one thing each:

    world seed=7 nodes=3 images=1 locks=1 news=1
                            locks=0: images without the feature exclusive-lock; news=0: OSDs hear of a new map from
                            clients only, not also by themselves within two seconds
    run 5                   so many seconds pass
    gw1 crash | boot        a power cut; power on
    gw1 pause | resume      the whole machine stands still; it goes on
    gw1 stop | continue     the agent is stopped (SIGSTOP); it goes on
    gw1 kill                the agent is killed; systemd starts it again
    gw1 lose requests | answers | ceph      what etcd is asked, or answers, is lost; Ceph does not answer
    gw1 heal                all of that is over
    gw1 unplug 1 | plug 1   a network's cable
    gw1 busy disk1 | idle   somebody has the image's device open there; nobody any more
    slow disk1 30           the guest's writes that begin now stay under way for so long; 0: no more
    move disk1 gw2          an operator's move
    gw1 drain | maintain | activate     what an operator asks of a node
    gw1 regain              the ways to etcd and Ceph are back
    gw1 work 3 crash        runs until an actor of gw1 of that kind (cycle, work, keeper, guard, any) has come to its
                            third point from now, at most 20 s, and does it there; `hold` keeps that one actor there
    gw1 work swap crash     the same, at its first point whose words hold that one (`-` for a blank)
    gw1 release             lets go what is held

Instead of a name: `holder` is who serves disk1 (or last did), `*` whoever comes to a point first, `held` who came to
the last one, `rest` the first node that is on and neither of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from gateway.actions import nodes
from gateway.errors import Blocklisted, Refused
from gateway.model import ClusterSettings, ImageSpec, Instance, Label, Network
from gateway.placement import candidates
from gateway.store import view as views
from gateway.store.cluster import ClusterStore
from gateway.store.keys import LIVE
from tests.fakes.etcd import FakeEtcd
from tests.fakes.rados import FakeRados, on_fakes
from tests.simulation import invariants
from tests.simulation.guests import Guest, Write
from tests.simulation.node import PREFIX, Node
from tests.simulation.stage import Actor, Stage, Violation

REACH = 20.0
"""For how long a watched point is waited for, in seconds."""

CLAIMS_PERIOD = 0.05
"""How often it is looked whether the claims of what is served still stand, in seconds."""

CALM_WITHIN = 240.0
"""How long a healed cluster may need until every image is served: a stuck device alone counts for 60 s."""


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
        self.stage = Stage(shape.seed)
        self.networks, self.specs = networks, specs
        self.told: list[str] = []
        self.rados = FakeRados()
        self.rados.on_fence, self.rados.on_change = self._fencing, self.stage.change
        self.rados.answers = self._answers
        self.etcd = FakeEtcd(lambda: self.stage.now)
        self.store = ClusterStore(self.etcd, PREFIX, clock=lambda: self.stage.now)
        self.store.initialise(ClusterSettings("fsid", networks, "rbd"))
        self._serial, self._news = 0, shape.news
        self._newest_serial: dict[str, int] = {}
        self._flying: list[Write] = []
        self._held: list[Actor] = []
        self._watched: tuple[Node | None, str, str] | None = None
        self._reached: Actor | None = None
        self._holder = self._at = 0
        self._heard = 0
        self._exports: dict[str, list[invariants.Exporter]] = {}
        self._seen = self._revision = -1
        self._checked = 0.0
        for spec in specs:
            self.rados.add_image(spec.name, spec.image_id, spec.size, exclusive=shape.locks)
            self.store.create_image(spec)
        self.nodes = [
            Node(self, number, 1.0 + self.stage.random.uniform(-0.0099, 0.0099)) for number in range(1, shape.nodes + 1)
        ]
        self.guests = {spec.uid: Guest(self, spec) for spec in specs}
        self.stage.check = self._check
        self.stage.passing = self._passing
        self.stage.after(0.25, self._watch_etcd)

    def do(self, line: str) -> None:
        """Carry one line out; Violation if anything is wrong on the way."""
        self.told.append(f"> {line}")
        with on_fakes():
            self._do(line.split())

    def settle(self) -> None:
        """Heal everything, and see every image served and every node at rest; Violation if that does not come."""
        self.told.append("> settle")
        with on_fakes():
            for node in self.nodes:
                self._do([str(node.name), "heal"])
            marks = {uid: guest.acked for uid, guest in self.guests.items()}
            end = self.stage.now + CALM_WITHIN
            unrest = "nothing was looked at"
            while self.stage.now < end:
                self.stage.run(1.0)
                unrest = self._unrest(marks)
                if not unrest:
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

    # What the parts ask.

    def next_serial(self) -> int:
        """A number higher than all before it."""
        self._serial += 1
        return self._serial

    def in_flight(self, client: Instance, uid: str) -> int:
        """How many writes of the client to the image have not come back."""
        return sum(not w.over and (w.client, w.uid) == (client, uid) for w in self._flying)

    def access(self, uid: str, client: Instance, serial: int) -> None:
        """An operation on the image's data through the map of that serial; Blocklisted if the OSD refuses."""
        image = self.rados.image_of(uid)
        self.rados.operate(client, image.data)
        newest = self._newest_serial.get(uid, 0)
        self._expect(invariants.no_former_holder_lands(image.name.name, serial, newest))
        self._newest_serial[uid] = max(serial, newest)

    def send(self, write: Write, seconds: float) -> None:
        """Let a write land so much later."""
        self._flying = [w for w in self._flying if not (w.over and w.landed)]
        self._flying.append(write)
        self.stage.after(seconds, lambda: self._land(write))
        node = write.node
        self.stage.after(node.timers.osd_request_timeout / node.rate, lambda: self._give_up(write))

    def _give_up(self, write: Write) -> None:
        """What krbd does after its bound: an error to the guest, a line in the log; an OSD may still have the write."""
        node = write.node
        if write.over or node.boot != write.boot or not node.powered:
            return
        if node.paused:
            self.stage.after(0.3, lambda: self._give_up(write))
            return
        self.say(f"{node.name} gives write {write.number} up")
        write.over = True
        write.landed = write.landed or not write.on_wire
        node.log.given_up += 1
        self.guests[write.uid].failed(write)

    def _land(self, write: Write) -> None:
        node, guest = write.node, self.guests[write.uid]
        if write.landed:
            return
        if not write.on_wire:
            if node.boot != write.boot or not node.powered:
                write.landed = write.over = True
                guest.failed(write)
                return
            if node.paused or node.ways.ceph:
                self.stage.after(0.3, lambda: self._land(write))
                return
        before = self._flying[: self._flying.index(write)]
        if any(not w.landed and (w.client, w.uid) == (write.client, write.uid) for w in before):
            self.stage.after(0.1, lambda: self._land(write))  # an OSD keeps the order of one client on one object
            return
        write.landed = True
        try:
            self.access(write.uid, write.client, write.serial)
        except Blocklisted:
            self.say(f"{node.name}'s write {write.number} is refused")
            if not write.over:
                write.over = True
                guest.failed(write)
            return
        image = self.rados.image_of(write.uid)
        if write.number != guest.acked + 1 or guest.waiting is not write:
            self.say(f"{node.name}'s write {write.number} lands late")
        image.block = write.number
        self._expect(invariants.nothing_acknowledged_is_lost(guest, image))
        self._answer(write)

    def _answer(self, write: Write) -> None:
        """The OSD's answer reaches krbd when it can, and the guest if its session is there still."""
        node = write.node
        if node.boot == write.boot and node.powered and (node.paused or node.ways.ceph):
            self.stage.after(0.3, lambda: self._answer(write))
            return
        write.over = True
        self.guests[write.uid].landed(write)

    # The words.

    def _do(self, words: list[str]) -> None:
        match words:
            case ["run", seconds]:
                self._run(float(seconds))
            case ["slow", disk, seconds]:
                self.guests[self._spec(disk).uid].slow = float(seconds)
            case ["move", disk, to]:
                self.store.request_move(self._spec(disk).uid, Label(to))
            case [name, kind, where, fault]:
                self._do_at_point(None if name == "*" else self._node(name), kind, where, fault)
            case [name, *rest]:
                self._befall(self._node(name), rest)

    def _befall(self, node: Node, words: list[str]) -> None:
        self._do_to(node, words)
        self.stage.change()

    def _do_to(self, node: Node, words: list[str]) -> None:  # noqa: C901, PLR0912 - one flat table
        match words:
            case ["crash"]:
                node.power_off()
            case ["boot"]:
                if not node.powered:
                    node.power_on()
            case ["pause"]:
                node.paused = node.powered
            case ["resume"]:
                self._resume(node)
            case ["stop"]:
                if node.agent:
                    node.agent.stopped = True
            case ["continue"]:
                if node.agent:
                    node.agent.stopped = False
                    node.thaw()
            case ["kill"]:
                node.kill_agent()
            case ["drain" | "maintain" | "activate" as wish]:
                self._ask(node, wish)
            case ["regain"]:
                node.ways.etcd, node.ways.ceph = "", False
            case ["lose", "ceph"]:
                node.ways.ceph = True
            case ["lose", what]:
                node.ways.etcd = what
            case ["unplug", number]:
                node.kernel.set_link(int(number), up=False)
            case ["plug", number]:
                node.kernel.set_link(int(number), up=True)
            case ["busy", disk]:
                mapping = node.mapping_of(self._spec(disk))
                node.kernel.held_open |= {mapping.number} if mapping else set()
            case ["idle"]:
                node.kernel.held_open.clear()
            case ["release"]:
                self._release(node)
            case ["heal"]:
                self._heal(node)
            case _:
                raise ValueError(f"no such words: {node.name} {words}")

    def _ask(self, node: Node, wish: str) -> None:
        try:
            if wish == "drain":
                nodes.drain(self.store, node.name, "simulated")
            elif wish == "maintain":
                nodes.maintain(self.store, node.name, "simulated", force=True)
            else:
                nodes.resume(self.store, node.name)
        except Refused as error:
            self.say(f"refused: {error}")

    def _heal(self, node: Node) -> None:
        node.ways.etcd, node.ways.ceph = "", False
        for line in ("boot", "resume", "continue", "idle", "release", "plug 1", "plug 2", "activate"):
            self._befall(node, line.split())
        for guest in self.guests.values():
            guest.slow = 0.0

    def _resume(self, node: Node) -> None:
        if node.paused:
            node.paused, node.resumed = False, self.stage.now
            node.thaw()

    def _release(self, node: Node) -> None:
        for actor in self._held:
            if actor.process.host is node:
                actor.held = False
                node.resumed = self.stage.now if actor.process is node.guard else node.resumed
        self._held = [actor for actor in self._held if actor.held]
        node.thaw()

    def _do_at_point(self, node: Node | None, kind: str, where: str, fault: str) -> None:
        self._watched, self._reached = (node, kind, where.replace("-", " ")), None
        self._run(REACH)
        self._watched = None
        actor = self._reached
        if actor is None:
            self.say("(that point was not reached)")
            return
        if fault == "hold":
            actor.held = True
            self._held.append(actor)
        else:
            self._befall(self.nodes[self._at], fault.replace("-", " ").split())

    def _passing(self, actor: Actor, what: str) -> bool:
        if self._watched is None or self._reached is not None:
            return False
        node, kind, where = self._watched
        host = next(each for each in self.nodes if each is actor.process.host)
        if node not in (None, host) or not (kind == "any" or actor.name.startswith(kind)):
            return False
        if where.isdecimal():
            self._watched = (node, kind, str(int(where) - 1))
        if where != "1" and (where.isdecimal() or where not in what):
            return False
        self.say(f"{host.name} {actor.name} is at: {what}")
        self._reached, self._at = actor, self.nodes.index(host)
        return True

    def _run(self, seconds: float) -> None:
        self.stage.run(seconds)

    def _node(self, name: str) -> Node:
        serving = [n for n in self.nodes if n.serves(self.specs[0]) is not None]
        self._holder = self.nodes.index(serving[0]) if serving else self._holder
        named = {"holder": self.nodes[self._holder], "held": self.nodes[self._at]}
        rest = [n for n in self.nodes if n.powered and n not in named.values()]
        named |= {str(node.name): node for node in self.nodes} | ({"rest": rest[0]} if rest else {})
        return named[name]

    def _spec(self, disk: str) -> ImageSpec:
        return next(spec for spec in self.specs if spec.name.name == disk)

    # What goes on by itself.

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
        images = self.rados.images.values()
        seen = {i for image in images for i in (*image.watchers, *image.locks)} | set(self.rados.listed)
        seen |= {i for image in images if image.holder for i in image.holder.instances}
        seen |= {record.instance for spec in self.specs for record in self.store.records_of(spec.uid)}
        live = views.live_nodes(self.etcd.range(self.store.keys.folder(LIVE)), self.store.keys).values()
        taker = Label(f"gw{by.text.partition(':')[0].rpartition('.')[2]}") if by else None
        owner = next((n.name for n in live if victim in n.instances and n.name != taker), None)
        self._expect(invariants.only_openers_are_fenced(victim, seen, owner))
        if self._news:
            self.stage.after(self.stage.random.uniform(0.0, 2.0), self.rados.news)

    # What must be true.

    def _expect(self, wrong: str | None) -> None:
        if wrong:
            self.say(f"WRONG: {wrong}")
            self.stage.fail(wrong)

    def _check(self) -> None:
        if self.stage.changes != self._seen:
            self._seen = self.stage.changes
            self._look_at_exports()
            self._check_exports()
        elif self.stage.now - self._checked < CLAIMS_PERIOD and self.etcd.revision == self._revision:
            return
        self._checked, self._revision = self.stage.now, self.etcd.revision
        self._check_claims()

    def _check_exports(self) -> None:
        for uid, exporters in self._exports.items():
            image = self.rados.image_of(uid)
            fenced = {c for _, _, c in exporters if c and self.rados.fenced(c, image.header)}
            if len(exporters) > 1:
                self._expect(invariants.older_exporters_are_fenced(image, exporters, fenced))
            for exporter in exporters:
                if exporter[2] not in fenced:
                    self._expect(invariants.the_header_names_the_newest(image, exporter))

    def _check_claims(self) -> None:
        for uid, exporters in self._exports.items():
            for exporter in exporters:
                if self._must_have_stopped(exporter[0]):
                    claim = self.etcd.peek(self.store.keys.claim(uid))
                    now = claim.create_revision if claim else None
                    self._expect(invariants.nobody_serves_beyond_its_claim(self.rados.image_of(uid), exporter, now))

    def _must_have_stopped(self, node: Node) -> bool:
        timers = node.timers
        moment = timers.guard_period + timers.guard_grace + timers.cut_bound
        return node.guarded and self.stage.now - node.resumed > moment

    def _look_at_exports(self) -> None:
        before, self._exports = self._exports, {}
        for node in self.nodes:
            for spec in self.specs:
                token = node.serves(spec)
                if token is not None:
                    mapping = node.mapping_of(spec)
                    found = (node, token, mapping.instance if mapping else None)
                    self._exports.setdefault(spec.uid, []).append(found)
        self._tell_exports(before)

    def _tell_exports(self, before: dict[str, list[invariants.Exporter]]) -> None:
        for spec in self.specs:
            old = {(str(n.name), t) for n, t, _ in before.get(spec.uid, [])}
            new = {(str(n.name), t) for n, t, _ in self._exports.get(spec.uid, [])}
            for name, token in sorted(new - old):
                self.say(f"{name} serves {spec.name.name} under claim {token}")
            for name, token in sorted(old - new):
                self.say(f"{name} serves {spec.name.name} no more (claim {token})")

    def _unrest(self, marks: dict[str, int]) -> str:
        exports = self._exports
        for spec in self.specs:
            serving = exports.get(spec.uid, [])
            if len(serving) != 1:
                return f"{spec.name.name} is served by {[str(n.name) for n, _, _ in serving] or 'nobody'}"
            down = [path.tag for path in spec.paths if serving[0][0].answers(spec, path) is None]
            if down:
                return f"{spec.name.name} on {serving[0][0].name} has paths {down} down"
            if self.guests[spec.uid].acked <= marks[spec.uid]:
                return f"{spec.name.name} on {serving[0][0].name} acknowledges no write"
        for node in self.nodes:
            if node.turned is None or not node.turned.plan.empty:
                plan = node.turned.plan if node.turned else None
                return f"{node.name} is not at rest: {plan}"
        return self._placed_differently()

    def _placed_differently(self) -> str:
        answers = set()
        for node in self.nodes:
            assert node.store is not None
            view = node.store.view()
            answers.add(tuple((spec.name, candidates(view, spec)) for spec in view.images.values()))
        return "" if len(answers) == 1 else f"the nodes differ about who should hold what: {answers}"
