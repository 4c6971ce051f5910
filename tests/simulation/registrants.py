"""Initiators that register, and an operator who clears what they registered: whose registration must be there.

As the guard does it, a registration is written to the header of an image that a node exports and holds, and is
acknowledged then. One that was acknowledged before a clear was asked for must go; one that was acknowledged after the
clear was made must stay, whatever became of its key; in between it may do either.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.errors import AlreadyExists, DamagedTable, NewerSchema
from gateway.model import Amendment, AmendmentKind, ImageSpec
from gateway.reservations.pr_info import decode, encode
from gateway.reservations.state import Nexus, Registration
from tests.fakes.rados import FakeImage

if TYPE_CHECKING:
    from tests.simulation.world import World

CLEAR = Amendment(AmendmentKind.CLEAR, "operator", "simulated")


class Registrants:
    """All of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._must: dict[str, set[Nexus]] = {}
        self._may: dict[str, set[Nexus]] = {}
        self._asked: dict[str, int] = {}
        """The table's generation when the clear that is pending was asked for."""
        self._count = 0

    def register(self, spec: ImageSpec) -> None:
        """A new session registers at whoever serves the image, if anybody does."""
        image = self._served(spec)
        if image is None or image.pr_info is None:
            self.world.say(f"nobody answers for {spec.name.name}")
            return
        self._count += 1
        nexus = Nexus(spec.initiators[0], f"{self._count:012x}", spec.identity.iqn, 1)
        state = decode(image.pr_info)
        image.pr_info = encode(replace(state, registrations=(*state.registrations, Registration(nexus, 1))))
        image.version += 1
        pending = spec.uid in self.world.store.view().amendments
        undecided = pending and state.generation == self._asked.get(spec.uid)
        (self._may if undecided else self._must).setdefault(spec.uid, set()).add(nexus)
        self.world.say(f"session {self._count} registers at {spec.name.name}")

    def clear(self, spec: ImageSpec) -> None:
        """An operator asks for an empty table, unless that is asked for already."""
        image = self.world.rados.image_of(spec.image_id)
        try:
            self.world.store.request_amendment(spec, CLEAR)
        except AlreadyExists as error:
            self.world.say(f"refused: {error}")
            return
        self._asked[spec.uid] = _generation(image)
        self._must[spec.uid], self._may[spec.uid] = set(), set()

    def wrong(self, spec: ImageSpec) -> str:
        """What is not recorded as it must be, with nothing pending; or empty."""
        image = self.world.rados.image_of(spec.image_id)
        found = {each.nexus for each in decode(image.pr_info).registrations} if image.pr_info else set[Nexus]()
        must, may = self._must.get(spec.uid, set()), self._may.get(spec.uid, set())
        if must - found:
            return f"{spec.name.name} has lost registrations: {sorted(map(str, must - found))}"
        if found - must - may:
            return f"{spec.name.name} has kept cleared registrations: {sorted(map(str, found - must - may))}"
        return ""

    def _served(self, spec: ImageSpec) -> FakeImage | None:
        """The image, if a node exports it whose guard's write the header would take."""
        image = self.world.rados.image_of(spec.image_id)
        for node in self.world.nodes:
            token, mapping = node.serves(spec), node.mapping_of(spec)
            holds = image.holder is not None and not image.holder.released and image.holder.token == token
            if holds and mapping is not None and not self.world.rados.fenced(mapping.instance, image.header):
                return image
        return None


def _generation(image: FakeImage) -> int:
    """That of the table now; 0 for one that nobody understands: nobody can register at it either."""
    try:
        return decode(image.pr_info).generation if image.pr_info else 0
    except (DamagedTable, NewerSchema):
        return 0
