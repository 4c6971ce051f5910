"""The words of a schedule, and what they do to a world.

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
    lift                    somebody takes every entry off Ceph's blocklist
    register disk1          an initiator's session registers
    clear disk1             an operator has all registrations cleared
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

from typing import TYPE_CHECKING

from gateway.actions import nodes
from gateway.errors import Refused
from gateway.model import ImageSpec, Label
from tests.simulation.node import Node
from tests.simulation.stage import Actor

if TYPE_CHECKING:
    from tests.simulation.world import World

NOT_REACHED = "(that point was not reached)"

REACH = 20.0
"""For how long a watched point is waited for, in seconds."""


class Words:
    """Carries lines out on one world."""

    def __init__(self, world: World) -> None:
        self.world, self.stage = world, world.stage
        self._held: list[Actor] = []
        self._watched: tuple[Node | None, str, str] | None = None
        self._reached: Actor | None = None
        self._holder = self._at = 0

    def do(self, words: list[str]) -> None:
        """One line."""
        match words:
            case ["run", seconds]:
                self.stage.run(float(seconds))
            case ["lift"]:
                self.world.rados.lift()
            case ["slow", disk, seconds]:
                self.world.guests[self._spec(disk).uid].slow = float(seconds)
            case ["move", disk, to]:
                self.world.store.request_move(self._spec(disk).uid, Label(to))
            case ["register", disk]:
                self.world.registrants.register(self._spec(disk))
            case ["clear", disk]:
                self.world.registrants.clear(self._spec(disk))
            case [name, kind, where, fault]:
                self._do_at_point(None if name == "*" else self.node(name), kind, where, fault)
            case [name, *rest]:
                self._befall(self.node(name), rest)

    def passing(self, actor: Actor, what: str) -> bool:
        """Whether the point that is waited for has been reached."""
        if self._watched is None or self._reached is not None:
            return False
        node, kind, where = self._watched
        host = next(each for each in self.world.nodes if each is actor.process.host)
        if node not in (None, host) or not (kind == "any" or actor.name.startswith(kind)):
            return False
        if where.isdecimal():
            self._watched = (node, kind, str(int(where) - 1))
        if where != "1" and (where.isdecimal() or where not in what):
            return False
        self.world.say(f"{host.name} {actor.name} is at: {what}")
        self._reached, self._at = actor, self.world.nodes.index(host)
        return True

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
                nodes.drain(self.world.store, node.name, "simulated")
            elif wish == "maintain":
                nodes.maintain(self.world.store, node.name, "simulated", force=True)
            else:
                nodes.resume(self.world.store, node.name)
        except Refused as error:
            self.world.say(f"refused: {error}")

    def _heal(self, node: Node) -> None:
        node.ways.etcd, node.ways.ceph = "", False
        for line in ("boot", "resume", "continue", "idle", "release", "plug 1", "plug 2", "activate"):
            self._befall(node, line.split())
        for guest in self.world.guests.values():
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
        self.stage.run(REACH)
        self._watched = None
        actor = self._reached
        if actor is None:
            self.world.say(NOT_REACHED)
            return
        if fault == "hold":
            actor.held = True
            self._held.append(actor)
        else:
            self._befall(self.world.nodes[self._at], fault.replace("-", " ").split())

    def node(self, name: str) -> Node:
        """The node that a name or word means now."""
        serving = [n for n in self.world.nodes if n.serves(self.world.specs[0]) is not None]
        self._holder = self.world.nodes.index(serving[0]) if serving else self._holder
        named = {"holder": self.world.nodes[self._holder], "held": self.world.nodes[self._at]}
        rest = [n for n in self.world.nodes if n.powered and n not in named.values()]
        named |= {str(node.name): node for node in self.world.nodes} | ({"rest": rest[0]} if rest else {})
        return named[name]

    def _spec(self, disk: str) -> ImageSpec:
        return next(spec for spec in self.world.specs if spec.name.name == disk)
