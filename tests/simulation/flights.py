"""Writes under way: from a node's krbd client to the OSD that has the data, and the answer back.

A write lands when its time has come, whatever has become of its node by then, unless it never left it or the OSD
refuses it; krbd gives it up after its bound, and it may land all the same. One client's writes to one object keep
their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import Blocklisted
from gateway.model import Instance
from tests.simulation import invariants
from tests.simulation.guests import Write

if TYPE_CHECKING:
    from tests.simulation.world import World


class Flights:
    """All writes of a world."""

    def __init__(self, world: World) -> None:
        self.world, self.stage = world, world.stage
        self._newest_serial: dict[str, int] = {}
        self._flying: list[Write] = []

    def in_flight(self, client: Instance, uid: str) -> int:
        """How many writes of the client to the image have not come back."""
        return sum(not w.over and (w.client, w.uid) == (client, uid) for w in self._flying)

    def access(self, uid: str, client: Instance, serial: int) -> None:
        """An operation on the image's data through the map of that serial; Blocklisted if the OSD refuses."""
        image = self.world.rados.image_of(uid)
        self.world.rados.operate(client, image.data)
        newest = self._newest_serial.get(uid, 0)
        self.world.expect(invariants.no_former_holder_lands(image.name.name, serial, newest))
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
        self.world.say(f"{node.name} gives write {write.number} up")
        write.over = True
        write.landed = write.landed or not write.on_wire
        node.log.given_up += 1
        self.world.guests[write.uid].failed(write)

    def _land(self, write: Write) -> None:
        node, guest = write.node, self.world.guests[write.uid]
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
            self.world.say(f"{node.name}'s write {write.number} is refused")
            if not write.over:
                write.over = True
                guest.failed(write)
            return
        image = self.world.rados.image_of(write.uid)
        if write.number != guest.acked + 1 or guest.waiting is not write:
            self.world.say(f"{node.name}'s write {write.number} lands late")
        image.block = write.number
        self.world.expect(invariants.nothing_acknowledged_is_lost(guest, image))
        self._answer(write)

    def _answer(self, write: Write) -> None:
        """The OSD's answer reaches krbd when it can, and the guest if its session is there still."""
        node = write.node
        if node.boot == write.boot and node.powered and (node.paused or node.ways.ceph):
            self.stage.after(0.3, lambda: self._answer(write))
            return
        write.over = True
        self.world.guests[write.uid].landed(write)
