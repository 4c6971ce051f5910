"""This node's kernel as one door: LIO, krbd and the network, read as one value and written one act at a time.

No policy, no memory. Writers to configfs share one lock with the other process of this node; what can wait for a
device's commands (disabling a TPG) is done outside it, so that one stuck image does not hold the others up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

from gateway import lio, network
from gateway.access import Access
from gateway.credentials import Credentials
from gateway.errors import (
    AddressInUse,
    Conflict,
    Inconsistent,
    KernelRefused,
    NotFound,
    StorageUnavailable,
    Unavailable,
)
from gateway.images.krbd import KernelClient, Krbd, client_options
from gateway.lio.lock import ConfigfsLock
from gateway.model import Address, ClusterView, Connection, ImageSpec, Instance, Iqn
from gateway.model import Path as ImagePath
from gateway.observed import ANCHOR, DeviceName, Interface, Kernel, Mapping, Portal
from gateway.phases import Phase
from gateway.plan import anchor_of
from gateway.profile import access_differences, differences
from gateway.reservations import pr_info
from gateway.reservations.recording import Ports
from gateway.reservations.restoring import comes_back, expect_restored, expect_trap, restoring
from gateway.reservations.state import ReservationState
from gateway.reservations.telling import RESTORED, forgetting, leaving, tell
from gateway.runtime import RuntimeDirectory
from gateway.steps import SetInitiators
from gateway.timers import Timers

HALF_BUILT = "it was not built to the end, or not found right afterwards"
"""Why an export is condemned while it is built."""


class NodeKernel:
    """The real kernel of this node. Every act raises what its room raises."""

    def __init__(
        self,
        runtime: RuntimeDirectory,
        timers: Timers,
        *,
        client: Callable[[], KernelClient] | None = None,
    ) -> None:
        """`client` tells how krbd logs in, where this process maps at all."""
        self.lock, self._runtime = ConfigfsLock(runtime.lock), runtime
        self.on_address: Callable[[Address], None] = lambda _address: None
        """Hears of each address that was just announced for the first time."""
        self.during: Callable[[str, Phase], AbstractContextManager[None]] = lambda _uid, _phase: nullcontext()
        """As `Hands.during` of gateway/apply.py, for what is inside of a step here."""
        self._timers, self._client = timers, client
        self._krbd = Krbd()
        self._view: ClusterView | None = None
        self._portals: frozenset[Address] = frozenset()

    def observe(self, view: ClusterView | None) -> Kernel:
        """The whole node at one look; without a view, networks are unknown and addresses are those marked as ours."""
        if view is not None:
            self._view = view
            self._portals = frozenset(path.address for spec in view.images.values() for path in spec.paths)
            net = network.observe(view.settings, self._portals)
        else:
            net = network.observe_own()
        devices, targets = lio.observe()
        return Kernel(
            devices=devices,
            targets=targets,
            mappings=self._krbd.mappings(),
            addresses=net.addresses,
            cuts=net.cuts,
            networks=net.networks,
            discovery=lio.observe_discovery(),
            lingering=network.could_still_send(net.cuts - net.addresses.keys()),
            spent=net.muted - network.closed_connections({c.portal for c in net.muted}),
            condemned=self._runtime.condemned(),
            crowded=self._runtime.crowded(),
        )

    def portal_addresses(self) -> frozenset[Address]:
        """The portal addresses of ours on this node, without a look at LIO."""
        return frozenset(network.observe_own().addresses)

    def connections(self, specs: Sequence[ImageSpec]) -> dict[str, tuple[Connection, ...]]:
        """The initiators' connections to the portals of each image on this node, by its uid, at one look."""
        owners = {Portal(path.address, path.port): spec.uid for spec in specs for path in spec.paths}
        found: dict[str, list[Connection]] = {}
        for portal, peers in network.peers(owners).items():
            of_image = found.setdefault(owners[portal], [])
            of_image += [Connection(portal.address, portal.port, peer.address, peer.port) for peer in peers]
        return {uid: tuple(sorted(connections, key=str)) for uid, connections in found.items()}

    def nudge(self, connection: Connection) -> None:
        """Make an initiator that still holds this connection to a former holder notice that it is dead."""
        portal = Portal(connection.portal, connection.portal_port)
        network.nudge(portal, network.Peer(connection.peer, connection.peer_port))

    def cut(self, addresses: frozenset[Address]) -> None:
        """Let no packet leave from these addresses any more."""
        network.cut(addresses)

    def uncut(self, addresses: frozenset[Address]) -> None:
        """Forget the cut of these addresses; one from which a dead connection would still send is left for later."""
        network.uncut(addresses - network.could_still_send(addresses))

    def unmute(self, connections: frozenset[Connection]) -> None:
        """Forget that these connections were muted."""
        network.unmute(connections)

    def remove_addresses(self, addresses: frozenset[Address]) -> None:
        """Take these portal addresses off."""
        network.remove_addresses(addresses)

    def teardown(self, uid: str, iqns: frozenset[Iqn], permit: Callable[[], None] = lambda: None) -> None:
        """Remove an image's targets and backstores; waits for the device's commands outside the lock.

        `permit` raises if they are to stay by now: asked under the lock, after all that can wait.
        """
        for iqn in sorted(iqns):
            lio.disable(iqn)
        lio.remove_loop(uid)
        with self.lock.held(self._timers.lock_bound):
            permit()
            lio.teardown(uid, iqns)

    def unmap(self, number: int) -> None:
        """Unmap a block device; one that is not mapped (any more) is fine."""
        with suppress(NotFound):
            self._krbd.unmap(number)

    def map_anchor(self, generation: int) -> None:
        """Map the anchor read-only as the first mapping of a new client instance."""
        options = client_options(
            generation,
            osd_request_timeout=self._timers.osd_request_timeout,
            mount_timeout=self._timers.rados_operation,
        )
        self._krbd.map_anchor(self._known_view().settings.anchor_pool, self._kernel_client(), options)

    def anchor_instance(self) -> Instance:
        """The client instance that maps made now will have."""
        return self._anchor().instance

    def map_image(self, spec: ImageSpec, client: Instance) -> None:
        """Map the image on the anchor's client, which must be that instance, and first waits for the newest osdmap."""
        anchor = self._anchor()
        if anchor.instance != client:
            raise Inconsistent(
                f"image {spec.name} was taken for the client {client}, and this node's is {anchor.instance} by now:"
                " taking it anew"
            )
        mapping = self._krbd.map_image(spec.name, self._kernel_client(), anchor)
        if not mapping.is_of(spec):
            self._krbd.unmap(mapping.number)
            raise Inconsistent(
                f"image {spec.name} has the id {mapping.image_id}, and this target was made for id {spec.image_id}:"
                f" the image was replaced; restore the old one, or delete the target with --keep and adopt the new one"
            )

    def build(self, spec: ImageSpec, device: DeviceName, access: Access, reservations: ReservationState | None) -> None:
        """Build the export with nothing enabled, then compare what is read back with the spec and the reservations.

        `reservations` are restored; None where the image keeps none. Unavailable without the guard's trap. What was
        built and not found right stays condemned: it may look complete, and is to be built anew.
        """
        mapping = next((m for m in self._krbd.mappings() if m.serves(spec)), None)
        if mapping is None:
            raise NotFound(f"image {spec.name} is not mapped on this node")
        if reservations is not None:
            expect_trap(lio.dbroot())
        lines = restoring(spec, reservations, access.initiators) if reservations is not None else ()
        with self.lock.held(self._timers.lock_bound):
            lio.expect_nothing(spec, device)
            if spec.uid in self._runtime.condemned():
                # The condemned export's connections, closed behind the cut, would send when it is lifted what they had
                # not: an answer that was not to be heard among it. (Of any other export they have nothing to hide, and
                # hearing of their end the initiator logs in anew at once.)
                network.mute(network.closed_connections(path.address for path in spec.paths))
            self._runtime.condemn(spec.uid, HALF_BUILT)
            lio.build(spec, device, mapping.dev_path, access, lines)
        built = next((d for d in lio.observe_devices() if d.name == device), None)
        target = lio.observe_target(spec.identity.iqn)
        wrong = (*differences(spec, built, target), *access_differences(access, target))
        if wrong:
            raise Inconsistent(f"image {spec.name} was not built as its spec demands: {'; '.join(wrong)}")
        if reservations is not None:
            with self.during(spec.uid, Phase.RESTORE):
                expect_restored(spec, reservations, timeout=self._timers.reservation_hold)
                self._runtime.write_restored(spec.uid, pr_info.encode(reservations))
                tell(lio.dbroot(), spec.identity.serial, RESTORED)
                expect_trap(lio.dbroot())  # what is written into a plain file is heard by nobody
        # Whatever was condemned before is gone, this is another export; but the guard may have condemned this one, too.
        self._runtime.absolve(spec.uid, HALF_BUILT)

    def probe(self, path: ImagePath) -> None:
        """Ask the path's network who has its address; AddressInUse if a machine does that is no node of the cluster.

        Silence on a link that went down meanwhile says nothing: KernelRefused.
        """
        before = self._interface(path)
        stranger = network.stranger_with(before.name, path.address, self.macs())
        if stranger is not None:
            raise AddressInUse(
                f"address {path.address} is in use by {stranger} on {path.network}, which is none of this cluster's"
                " nodes: not exported; free it there, or give the image another address"
            )
        if not (before.up and self._interface(path).up):
            raise KernelRefused(f"{before.name} lost its link while {path.network} was asked who has {path.address}")

    def open_path(self, spec: ImageSpec, path: ImagePath, permit: Callable[[], None]) -> None:
        """Cut, portal, enable, address, lift the cut, announce: nobody meets an address that refuses.

        `permit` raises if the tenure does not cover this any more, or the guard is gone. It is asked after all that can
        wait, right before the address answers: the wait for the lock alone can be longer than the tenure that was left.
        """
        interface = self._interface(path)
        network.cut({path.address})
        with self.lock.held(self._timers.lock_bound):
            lio.open_portal(spec.identity.iqn, path)
        self._expect_not_condemned(spec)
        permit()
        network.add_address(interface.name, path.address)
        # A lease that ends in between is ended because nothing answers here: it must not begin to. A guard's end takes
        # its sign back before it cuts, and the guard marks what it condemns before it cuts and takes addresses off: so
        # what is lifted below is no cut of the guard's, or there is no address behind it any more.
        permit()
        self._expect_not_condemned(spec)
        network.uncut({path.address})
        with self.during(spec.uid, Phase.ANNOUNCE):
            self.announce(path.address)
            self.on_address(path.address)

    def _expect_not_condemned(self, spec: ImageSpec) -> None:
        reason = self._runtime.condemned().get(spec.uid)
        if reason is not None:
            raise Conflict(f"image {spec.name} is to be exported anew: {reason}")

    def announce(self, address: Address) -> None:
        """Announce the address on the interface it is on; nothing happens if it is not here."""
        interface = network.observe_own().addresses.get(address)
        if interface is not None:
            network.announce(interface, address)

    def contested(self, heard: Iterable[tuple[str, network.Assertion]]) -> tuple[tuple[str, network.Assertion], ...]:
        """Those of the heard by which another machine has a portal address that is on this node."""
        portals = self._portals  # most of what is heard is about other addresses, and costs no look at the kernel
        suspects = [(interface, said) for interface, said in heard if said.address in portals]
        return network.contested(suspects) if suspects else ()

    def macs(self) -> frozenset[str]:
        """The hardware addresses that the cluster's live nodes have published."""
        view = self._view
        return frozenset(mac for node in view.live.values() for mac in node.macs) if view else frozenset()

    def close_path(self, spec: ImageSpec, path: ImagePath) -> None:
        """Cut, address off, disable, portal off; TPG, LUN and ACLs stay."""
        network.cut({path.address})
        network.remove_addresses({path.address})
        lio.close_portal(spec.identity.iqn, path.tag)

    def set_initiators(self, step: SetInitiators, reservations: ReservationState | None) -> None:
        """Change the ACLs of an exported image; `reservations` are the recorded ones, None where they do not matter.

        Conflict where a newcomer has a registration on record: it is restored in an export that is built anew, and the
        present one is condemned for it, unless that has to wait; then the newcomers wait, too.
        The kernel forgets the registrations of a removed initiator without a word. So the guard records the table
        without them first, and once more when the ACLs are gone: another change may have been recorded in between.
        """
        spec, iqn = step.spec, step.spec.identity.iqn
        back = reservations is not None and comes_back(spec, reservations, step.newcomers, Ports.of(iqn))
        if back and not step.waits_for:
            self._runtime.condemn(spec.uid, "who is allowed now has a registration on record: to be restored with it")
            self._expect_not_condemned(spec)
        wanted = {} if back else step.wanted
        recorded = spec.attributes.emulate_pr and step.remove
        if recorded:
            self._have_recorded(spec, leaving(step.remove))
        with self.lock.held(self._timers.lock_bound):
            lio.set_acls(iqn, wanted, step.remove, demanded=step.demanded)
        if recorded:
            self._have_recorded(spec, leaving(step.remove))
        if back:
            raise Conflict(
                f"image {spec.name}: who is allowed now has a registration on record, so it is to be exported anew,"
                f" and that waits: {step.waits_for}"
            )

    def forget(self, spec: ImageSpec, nexuses: Iterable[str]) -> None:
        """Have these registrations of an exported image recorded no more; their initiators have no ACL (any more)."""
        self._have_recorded(spec, forgetting(nexuses))

    def _have_recorded(self, spec: ImageSpec, text: bytes) -> None:
        """Have the guard record the image's table with that word; Unavailable without its trap, or if it could not."""
        root = lio.dbroot()
        expect_trap(root)
        tell(root, spec.identity.serial, text)
        expect_trap(root)  # what is written into a plain file is heard by nobody
        reason = self._runtime.condemned().get(spec.uid)
        if reason is not None:  # which is the guard's answer where it cannot record: it never answers an error
            raise Unavailable(f"image {spec.name}: the guard did not record its reservations anew: {reason}")

    def set_discovery(self, credentials: Credentials | None) -> None:
        """Have this node's discovery ask for these credentials, or for nothing."""
        with self.lock.held(self._timers.lock_bound):
            lio.set_discovery(credentials)

    def close_discovery(self) -> None:
        """Have this node's discovery ask for credentials, whichever it has."""
        with self.lock.held(self._timers.lock_bound):
            lio.close_discovery()

    def _interface(self, path: ImagePath) -> Interface:
        """The interface that serves the path's network now."""
        seen = network.observe(self._known_view().settings, frozenset({path.address}))
        interface = seen.networks.get(path.network)
        if interface is None:
            raise NotFound(f"no interface of this node has an address in network {path.network}")
        return interface

    def _kernel_client(self) -> KernelClient:
        if self._client is None:
            raise StorageUnavailable("this process does not map images")
        return self._client()

    def _known_view(self) -> ClusterView:
        if self._view is None:
            raise NotFound("the cluster's settings have not been read yet")
        return self._view

    def _anchor(self) -> Mapping:
        pool = self._known_view().settings.anchor_pool
        anchor = anchor_of(self._krbd.mappings(), pool)
        if anchor is None:
            raise StorageUnavailable(f"the anchor image {pool}/{ANCHOR} is not mapped on this node")
        return anchor
