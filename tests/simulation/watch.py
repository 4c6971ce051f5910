"""The watch over a world: looks after each step whether every invariant holds, and tells who serves what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import Instance, Label
from gateway.placement import candidates
from gateway.store import view as views
from gateway.store.keys import LIVE
from tests.simulation import invariants

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.world import World

CLAIMS_PERIOD = 0.05
"""How often it is looked whether the claims of what is served still stand, in seconds."""


class Watch:
    """Looks at one world."""

    def __init__(self, world: World) -> None:
        self.world, self.stage = world, world.stage
        self._exports: dict[str, list[invariants.Exporter]] = {}
        self._fenced: set[Instance] = set()
        self._seen = self._revision = -1
        self._checked = 0.0

    def check(self) -> None:
        """Look at what may have changed."""
        if self.stage.changes != self._seen:
            self._seen = self.stage.changes
            self._look_at_exports()
            self._check_exports()
        elif self.stage.now - self._checked < CLAIMS_PERIOD and self.world.etcd.revision == self._revision:
            return
        self._checked, self._revision = self.stage.now, self.world.etcd.revision
        self._check_claims()

    def fencing(self, victim: Instance, by: Instance | None) -> None:
        """A client is being fenced, by whom (None: a kernel by itself)."""
        images = self.world.rados.images.values()
        seen = {i for image in images for i in (*image.watchers, *image.locks)} | set(self.world.rados.listed)
        seen |= {i for image in images if image.holder for i in image.holder.instances}
        seen |= {record.instance for spec in self.world.specs for record in self.world.store.records_of(spec.uid)}
        seen |= self._fenced  # an entry that vanished is put there again
        self._fenced.add(victim)
        live = views.live_nodes(
            self.world.etcd.range(self.world.store.keys.folder(LIVE)), self.world.store.keys
        ).values()
        taker = Label(f"gw{by.text.partition(':')[0].rpartition('.')[2]}") if by else None
        owner = next((n.name for n in live if victim in n.instances and n.name != taker), None)
        self.world.expect(invariants.only_openers_are_fenced(victim, seen, owner))

    def unrest(self, marks: dict[str, int]) -> str:
        """Why the world is not at rest, in words; `marks` has the number each guest had to get beyond."""
        exports = self._exports
        for spec in self.world.specs:
            serving = exports.get(spec.uid, [])
            if len(serving) != 1:
                return f"{spec.name.name} is served by {[str(n.name) for n, _, _ in serving] or 'nobody'}"
            down = [path.tag for path in spec.paths if serving[0][0].answers(spec, path) is None]
            if down:
                return f"{spec.name.name} on {serving[0][0].name} has paths {down} down"
            if spec.uid in self.world.store.view().amendments:
                return f"a change of {spec.name.name}'s reservations is pending"
            if self.world.guests[spec.uid].acked <= marks[spec.uid]:
                return f"{spec.name.name} on {serving[0][0].name} acknowledges no write"
        for node in self.world.nodes:
            if node.turned is None or not node.turned.plan.empty:
                plan = node.turned.plan if node.turned else None
                return f"{node.name} is not at rest: {plan}"
        return self._placed_differently()

    def _check_exports(self) -> None:
        for uid, exporters in self._exports.items():
            image = self.world.rados.image_of(uid)
            fenced = {c for _, _, c in exporters if c and self.world.rados.fenced(c, image.header)}
            if len(exporters) > 1:
                self.world.expect(invariants.older_exporters_are_fenced(image, exporters, fenced))
            for exporter in exporters:
                if exporter[2] not in fenced:
                    self.world.expect(invariants.the_header_names_the_newest(image, exporter))

    def _check_claims(self) -> None:
        for uid, exporters in self._exports.items():
            for exporter in exporters:
                if self._must_have_stopped(exporter[0]):
                    claim = self.world.etcd.peek(self.world.store.keys.claim(uid))
                    now = claim.create_revision if claim else None
                    self.world.expect(
                        invariants.nobody_serves_beyond_its_claim(self.world.rados.image_of(uid), exporter, now)
                    )

    def _must_have_stopped(self, node: Node) -> bool:
        timers = node.timers
        moment = timers.guard_period + timers.guard_grace + timers.cut_bound
        return node.guarded and self.stage.now - node.resumed > moment

    def _look_at_exports(self) -> None:
        before, self._exports = self._exports, {}
        for node in self.world.nodes:
            for spec in self.world.specs:
                token = node.serves(spec)
                if token is not None:
                    mapping = node.mapping_of(spec)
                    found = (node, token, mapping.instance if mapping else None)
                    self._exports.setdefault(spec.uid, []).append(found)
        self._tell_exports(before)

    def _tell_exports(self, before: dict[str, list[invariants.Exporter]]) -> None:
        for spec in self.world.specs:
            old = {(str(n.name), t) for n, t, _ in before.get(spec.uid, [])}
            new = {(str(n.name), t) for n, t, _ in self._exports.get(spec.uid, [])}
            for name, token in sorted(new - old):
                self.world.say(f"{name} serves {spec.name.name} under claim {token}")
            for name, token in sorted(old - new):
                self.world.say(f"{name} serves {spec.name.name} no more (claim {token})")

    def _placed_differently(self) -> str:
        answers = set()
        for node in self.world.nodes:
            assert node.store is not None
            view = node.store.view()
            answers.add(tuple((spec.name, candidates(view, spec)) for spec in view.images.values()))
        return "" if len(answers) == 1 else f"the nodes differ about who should hold what: {answers}"
