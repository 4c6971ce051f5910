"""RADOS as a step needs it, measured: each act is timed, and what is read to be restored is noted."""

from __future__ import annotations

from agent.monitoring.monitor import Monitor
from agent.monitoring.tables import table_of
from gateway.apply import Openers
from gateway.images.cluster import CephConnection
from gateway.images.holder import Holder
from gateway.model import Amendment, ImageSpec, Instance, Label
from gateway.reservations.state import ReservationState
from gateway.storage import CephStorage


class MeasuredStorage(CephStorage):
    """Does what its base does, and tells the monitor."""

    def __init__(self, connection: CephConnection, node: Label, monitor: Monitor) -> None:
        super().__init__(connection, node)
        self._monitor, self._counts = monitor, monitor.counts

    def openers(self, spec: ImageSpec) -> Openers:
        """Measured."""
        with self._counts.rados("openers"):
            return super().openers(spec)

    def fence(self, spec: ImageSpec, victims: frozenset[Instance]) -> None:
        """Measured as an act in RADOS and as a fence."""
        with self._counts.rados("fence"), self._counts.fence(len(victims)):
            super().fence(spec, victims)

    def break_locks(self, spec: ImageSpec, owners: frozenset[Instance]) -> None:
        """Measured."""
        with self._counts.rados("break_locks"):
            super().break_locks(spec, owners)

    def take(self, spec: ImageSpec, expected: Holder | None, mine: Holder, amendment: Amendment | None = None) -> None:
        """Measured."""
        with self._counts.rados("take"):
            super().take(spec, expected, mine, amendment)

    def reservations(self, spec: ImageSpec, token: int) -> ReservationState:
        """Measured, and noted."""
        with self._counts.rados("reservations"):
            found = super().reservations(spec, token)
        self._monitor.restored(spec.uid, token, table_of(found))
        return found

    def refresh(self, spec: ImageSpec, mine: Holder) -> None:
        """Measured."""
        with self._counts.rados("refresh"):
            super().refresh(spec, mine)

    def release(self, spec: ImageSpec, token: int) -> None:
        """Measured."""
        with self._counts.rados("release"):
            super().release(spec, token)

    def read_anchor(self, pool: str) -> None:
        """Measured."""
        with self._counts.rados("probe"):
            super().read_anchor(pool)

    def blocklisted(self) -> frozenset[Instance]:
        """Measured."""
        with self._counts.rados("blocklist"):
            return super().blocklisted()
