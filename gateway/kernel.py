"""This node's kernel as one door: LIO, krbd and the network, read as one value and written one act at a time.

No policy, no memory. Writers to configfs share one lock with the other process of this node; what can wait for a
device's commands (disabling a TPG) is done outside it, so that one stuck image does not hold the others up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gateway import lio, network
from gateway.errors import Inconsistent, NotFound, StorageUnavailable
from gateway.images import krbd
from gateway.lio.lock import ConfigfsLock
from gateway.model import Address, ClusterView, ImageSpec, Instance, Iqn
from gateway.model import Path as ImagePath
from gateway.observed import ANCHOR, DeviceName, Kernel, Mapping
from gateway.plan import anchor_of
from gateway.profile import differences
from gateway.settings import CephSettings, Settings


class NodeKernel:
    """The real kernel of this node. Every act raises what its room raises."""

    def __init__(
        self,
        *,
        ceph: CephSettings,
        lock: ConfigfsLock,
        lock_bound: float,
        osd_request_timeout: float,
        on_address: Callable[[Address], None] | None = None,
    ) -> None:
        self.lock = lock
        self._ceph, self._lock_bound, self._osd_request_timeout = ceph, lock_bound, osd_request_timeout
        self._on_address = on_address
        self._view: ClusterView | None = None

    @classmethod
    def of(cls, settings: Settings, lock: Path, on_address: Callable[[Address], None] | None = None) -> NodeKernel:
        """The kernel as the settings file has it."""
        timers = settings.timers
        return cls(
            ceph=settings.ceph,
            lock=ConfigfsLock(lock),
            lock_bound=timers.lock_bound,
            osd_request_timeout=timers.osd_request_timeout,
            on_address=on_address,
        )

    def observe(self, view: ClusterView | None) -> Kernel:
        """The whole node at one look; without a view, networks are unknown and addresses are those marked as ours."""
        if view is not None:
            self._view = view
            portals = frozenset(path.address for spec in view.images.values() for path in spec.paths)
            net = network.observe(view.settings, portals)
        else:
            net = network.observe_own()
        devices, targets = lio.observe()
        return Kernel(
            devices=devices,
            targets=targets,
            mappings=krbd.mappings(),
            addresses=net.addresses,
            cuts=net.cuts,
            networks=net.networks,
        )

    def portal_addresses(self) -> frozenset[Address]:
        """The portal addresses of ours on this node, without a look at LIO."""
        return frozenset(network.observe_own().addresses)

    def cut(self, addresses: frozenset[Address]) -> None:
        """Let no packet leave from these addresses any more."""
        network.cut(addresses)

    def uncut(self, addresses: frozenset[Address]) -> None:
        """Forget the cut of these addresses."""
        network.uncut(addresses)

    def remove_addresses(self, addresses: frozenset[Address]) -> None:
        """Take these portal addresses off."""
        network.remove_addresses(addresses)

    def teardown(self, uid: str, iqns: frozenset[Iqn]) -> None:
        """Remove an image's targets and backstores; waits for the device's commands outside the lock."""
        for iqn in sorted(iqns):
            lio.disable(iqn)
        with self.lock.held(self._lock_bound):
            lio.teardown(uid, iqns)

    def unmap(self, number: int) -> None:
        """Unmap a block device."""
        krbd.unmap(number)

    def map_anchor(self, generation: int) -> None:
        """Map the anchor read-only as the first mapping of a new client instance."""
        pool = self._known_view().settings.anchor_pool
        self._map(pool, "", ANCHOR, generation, read_only=True)

    def anchor_instance(self) -> Instance:
        """The client instance that maps made now will have."""
        return self._anchor().instance

    def map_image(self, spec: ImageSpec) -> None:
        """Map the image on the anchor's client, which first waits for the newest osdmap."""
        anchor = self._anchor()
        name = spec.name
        mapping = self._map(name.pool, name.namespace, name.name, anchor.generation or 0, read_only=False)
        if not mapping.is_of(spec):
            krbd.unmap(mapping.number)
            raise Inconsistent(
                f"image {name} has the id {mapping.image_id}, and this target was made for id {spec.image_id}: the image"
                f" was replaced; restore the old one, or delete the target with --keep and adopt the new image"
            )
        if mapping.instance != anchor.instance:
            krbd.unmap(mapping.number)
            raise Inconsistent(f"image {name} was mapped by client {mapping.instance}, not the anchor's")

    def build(self, spec: ImageSpec, device: DeviceName) -> None:
        """Build the export with nothing enabled, then compare what is read back with the spec."""
        mapping = next((m for m in krbd.mappings() if m.is_of(spec)), None)
        if mapping is None:
            raise NotFound(f"image {spec.name} is not mapped on this node")
        with self.lock.held(self._lock_bound):
            lio.build(spec, device, mapping.dev_path)
        built = next((d for d in lio.observe_devices() if d.name == device), None)
        wrong = differences(spec, built, lio.observe_target(spec.identity.iqn))
        if wrong:
            raise Inconsistent(f"image {spec.name} was not built as its spec demands: {'; '.join(wrong)}")

    def open_path(self, spec: ImageSpec, path: ImagePath) -> None:
        """Address behind the cut, portal, enable, lift the cut, announce: nobody meets an address that refuses."""
        view = self._known_view()
        interface = network.observe(view.settings, frozenset({path.address})).networks.get(path.network)
        if interface is None:
            raise NotFound(f"no interface of this node has an address in network {path.network}")
        network.cut({path.address})
        network.add_address(interface.name, path.address)
        with self.lock.held(self._lock_bound):
            lio.open_portal(spec.identity.iqn, path)
        network.uncut({path.address})
        self.announce(path.address)
        if self._on_address is not None:
            self._on_address(path.address)

    def announce(self, address: Address) -> None:
        """Announce the address on the interface it is on; nothing happens if it is not here."""
        interface = network.observe_own().addresses.get(address)
        if interface is not None:
            network.announce(interface, address)

    def close_path(self, spec: ImageSpec, path: ImagePath) -> None:
        """Cut, address off, disable, portal off; TPG, LUN and ACLs stay."""
        network.cut({path.address})
        network.remove_addresses({path.address})
        lio.close_portal(spec.identity.iqn, path.tag)

    def set_initiators(self, spec: ImageSpec, add: frozenset[Iqn], remove: frozenset[Iqn]) -> None:
        """Change the ACLs of an exported image."""
        with self.lock.held(self._lock_bound):
            lio.set_acls(spec.identity.iqn, add, remove)

    def _map(self, pool: str, namespace: str, name: str, generation: int, *, read_only: bool) -> Mapping:
        return krbd.map_image(
            self._ceph,
            pool=pool,
            namespace=namespace,
            name=name,
            generation=generation,
            osd_request_timeout=self._osd_request_timeout,
            read_only=read_only,
        )

    def _known_view(self) -> ClusterView:
        if self._view is None:
            raise NotFound("the cluster's settings have not been read yet")
        return self._view

    def _anchor(self) -> Mapping:
        pool = self._known_view().settings.anchor_pool
        mappings = krbd.mappings()
        anchor = anchor_of(Kernel((), (), mappings, {}, frozenset(), {}), pool)
        if anchor is None:
            raise StorageUnavailable(f"the anchor image {pool}/{ANCHOR} is not mapped on this node")
        return anchor
