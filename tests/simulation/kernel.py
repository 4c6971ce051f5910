"""A node's kernel on the stage: a point before each act, and what has to wait for Ceph waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gateway.errors import StorageUnavailable
from gateway.images.kernel_log import Excerpt
from gateway.model import ClusterView, Connection, ImageSpec, Instance, Label, Path
from gateway.observed import Interface, Kernel
from tests.fakes.node import FakeKernel
from tests.fakes.rados import FakeRados
from tests.simulation.stage import Stage
from tests.simulation.ways import MONITORS_BOUND, Ways


class NodeLog:
    """A node's kernel log, in which only requests that were given up stand."""

    def __init__(self) -> None:
        self.given_up = 0

    def look(self, after: int) -> Excerpt:
        """What is new."""
        return Excerpt(max(after, self.given_up - 1), given_up=self.given_up - 1 > after)


class NodeKernel(FakeKernel):
    """The fake kernel with a point before each act; what has to wait for Ceph waits on the stage.

    `in_flight` counts a client's writes to an image that have not come back. Each map has a serial number, higher than
    all before it in the cluster.
    """

    def __init__(self, rados: FakeRados, name: str, networks: dict[Label, Interface], stage: Stage, ways: Ways) -> None:
        super().__init__(rados, name, networks)
        self.stage, self.ways, self.rados = stage, ways, rados
        self.before = self._before
        self.in_flight: Callable[[Instance, str], int] = lambda _client, _uid: 0
        self.next_serial: Callable[[], int] = lambda: 0
        self.said: Callable[[str], None] = lambda _text: None
        self.serials: dict[int, int] = {}
        self.lock = _NoLock()

    def observe(self, view: ClusterView | None) -> Kernel:
        """Look."""
        self.stage.point("observe")
        return super().observe(view)

    def portal_addresses(self) -> frozenset[Any]:
        """What of ours is on the node."""
        return frozenset(self.state.addresses)

    def connections(self, specs: Sequence[ImageSpec]) -> dict[str, tuple[Connection, ...]]:
        """Nobody is nudged here."""
        return {}

    def teardown(self, uid: str, iqns: frozenset[Any], permit: Callable[[], None] = lambda: None) -> None:
        """Wait for the device's commands, then remove."""
        for device in self.state.devices_of(uid):
            self._drain(device.dev_path)
        super().teardown(uid, iqns, permit)

    def unmap(self, number: int) -> None:
        """Wait for the device's requests, then unmap."""
        self._drain(f"/dev/rbd{number}")
        super().unmap(number)

    def map_image(self, spec: ImageSpec, client: Instance) -> None:
        """Map; with no monitor in reach it hangs until there is one."""
        while self.ways.ceph:
            self.stage.sleep(0.5)
        super().map_image(spec, client)
        self.serials[self.state.mappings[-1].number] = self.next_serial()
        self.said(f"maps {spec.name.name}")

    def open_path(self, spec: ImageSpec, path: Path, permit: Callable[[], None]) -> None:
        """Open; between the permission and the address there is a moment, too."""

        def permitted() -> None:
            permit()
            self.stage.point("permitted")

        super().open_path(spec, path, permitted)

    def map_anchor(self, generation: int) -> None:
        """Map the anchor; without a monitor the kernel gives up."""
        if self.ways.ceph:
            self.stage.sleep(MONITORS_BOUND)
            raise StorageUnavailable("mapping the anchor: no monitor could be reached")
        super().map_anchor(generation)
        self.rados.connect(self.state.mappings[-1].instance)

    def _drain(self, dev_path: str) -> None:
        for mapping in self.state.mappings:
            while mapping.dev_path == dev_path and self.in_flight(mapping.instance, mapping.image_id):
                self.stage.sleep(0.1)

    def _set(self, **parts: object) -> None:
        super()._set(**parts)
        self.stage.change()

    def _before(self, act: str) -> None:
        self.stage.point(act)

    def set_link(self, number: int, *, up: bool) -> None:
        """Plug a network's cable in or out."""
        name = sorted(self.state.networks)[number - 1]
        networks = dict(self.state.networks)
        networks[name] = replace(networks[name], up=up)
        self.state = replace(self.state, networks=networks)


class _NoLock:
    def holder(self) -> None:
        """Nobody keeps it long here."""
