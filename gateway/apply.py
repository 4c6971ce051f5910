"""The act: carries out one step of a plan. No policy here; what a step did is read back by the next observation.

The takeover's middle (who may have the image open, the fence, the swap of its header) is one step, `TakeHold`, because
each of its acts rests on what the one before has read: who may have the image open is read *after* the claim was won,
exactly those are fenced, and the header is swapped against exactly the holder that was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from gateway import steps as words
from gateway.access import Access
from gateway.credentials import Credentials
from gateway.errors import (
    FenceUnconfirmed,
    KernelRefused,
    RequestsGivenUp,
    StorageUnavailable,
    Stuck,
    TenureOver,
    Unavailable,
)
from gateway.images.holder import Holder
from gateway.model import (
    Address,
    Amendment,
    Connection,
    FenceIntent,
    HolderRecord,
    ImageSpec,
    Instance,
    Iqn,
    Label,
    Path,
)
from gateway.model import Claim as ClaimValue
from gateway.observed import DeviceName
from gateway.phases import Phase
from gateway.reservations.state import ReservationState


@dataclass(frozen=True)
class Openers:
    """Who may have an image open, as the image itself tells: its holder xattr, header watchers and lock owners.

    A holder that has let go cleanly is not among `instances`, though a watch or the lock may have stayed behind when
    Ceph did not answer its unmap; `lock_owners` are all that the lock names.
    """

    holder: Holder | None
    instances: frozenset[Instance]
    lock_owners: frozenset[Instance] = frozenset()


class Store(Protocol):
    """What a step writes to etcd; every call is guarded by the claim's create revision."""

    def claim(self, spec: ImageSpec, revision: int, node: Label, lease: int) -> ClaimValue: ...
    def records_of(self, uid: str) -> tuple[HolderRecord, ...]: ...
    def add_records(self, uid: str, token: int, records: tuple[HolderRecord, ...]) -> None: ...
    def drop_records(self, uid: str, records: tuple[HolderRecord, ...]) -> None: ...
    def write_fence(self, intents: tuple[FenceIntent, ...], uid: str, token: int) -> None: ...
    def drop_fences(self, intents: tuple[FenceIntent, ...]) -> None: ...
    def release(self, uid: str, token: int, records: tuple[HolderRecord, ...]) -> None: ...
    def mark_served(self, spec: ImageSpec, token: int, addresses: frozenset[Address]) -> None: ...
    def start_move(self, uid: str, token: int, to: Label, why: str) -> None: ...
    def finish_move(self, uid: str, revision: int) -> None: ...
    def finish_amendment(self, uid: str, revision: int) -> None: ...
    def connections_of(self, uid: str) -> tuple[Connection, ...]: ...
    def live_instances(self) -> Mapping[Instance, Label]: ...


class Storage(Protocol):
    """What a step asks of RADOS."""

    @property
    def instance(self) -> Instance: ...
    def openers(self, spec: ImageSpec) -> Openers: ...
    def fence(self, spec: ImageSpec, victims: frozenset[Instance]) -> None: ...
    def take(
        self, spec: ImageSpec, expected: Holder | None, mine: Holder, amendment: Amendment | None = None
    ) -> None: ...
    def break_locks(self, spec: ImageSpec, owners: frozenset[Instance]) -> None: ...
    def reservations(self, spec: ImageSpec, token: int) -> ReservationState: ...
    def refresh(self, spec: ImageSpec, mine: Holder) -> None: ...
    def release(self, spec: ImageSpec, token: int) -> None: ...
    def blocklisted(self) -> frozenset[Instance]: ...


class KernelDoor(Protocol):
    """What a step does to this node's kernel."""

    def cut(self, addresses: frozenset[Address]) -> None: ...
    def uncut(self, addresses: frozenset[Address]) -> None: ...
    def unmute(self, connections: frozenset[Connection]) -> None: ...
    def remove_addresses(self, addresses: frozenset[Address]) -> None: ...
    def teardown(self, uid: str, iqns: frozenset[Iqn]) -> None: ...
    def unmap(self, number: int) -> None: ...
    def map_anchor(self, generation: int) -> None: ...
    def anchor_instance(self) -> Instance: ...
    def map_image(self, spec: ImageSpec, client: Instance) -> None: ...
    def build(
        self, spec: ImageSpec, device: DeviceName, access: Access, reservations: ReservationState | None
    ) -> None: ...
    def probe(self, path: Path) -> None: ...
    def open_path(self, spec: ImageSpec, path: Path, permit: Callable[[], None]) -> None: ...
    def nudge(self, connection: Connection) -> None: ...
    def close_path(self, spec: ImageSpec, path: Path) -> None: ...
    def set_initiators(self, step: words.SetInitiators, reservations: ReservationState | None) -> None: ...
    def forget(self, spec: ImageSpec, nexuses: Iterable[str]) -> None: ...
    def set_discovery(self, credentials: Credentials | None) -> None: ...
    def close_discovery(self) -> None: ...


@dataclass(frozen=True)
class Hands:
    """Everything a step may touch. `permit(uid, token)` tells whether the tenure covers serving that image now."""

    node: Label
    lease: int
    store: Store
    storage: Storage | None
    kernel: KernelDoor
    permit: Callable[[str, int], bool]
    guarded: Callable[[], bool] = lambda: True
    """Whether this node's guard gives its sign of life now."""
    complete: Callable[[Instance], bool] = lambda _: True
    """Whether every request of that kernel client of this node's was answered; unknown is no."""
    fenced: Callable[[tuple[FenceIntent, ...]], None] = lambda _: None
    """Hears whom a takeover has fenced, once that was confirmed."""
    boot_id: str = ""
    """The machine's present boot, which goes on record with this node's instances."""
    during: Callable[[str, Phase], AbstractContextManager[None]] = lambda _uid, _phase: nullcontext()
    """Measures what is a phase of an image's takeover by itself, though it is part of a step."""


def apply(step: words.Step, hands: Hands) -> None:  # noqa: C901, PLR0912, PLR0915 - one flat table of words and acts
    """Carry out one step; raises what its room raises, with nothing half decided left behind."""
    kernel, store = hands.kernel, hands.store
    match step:
        case words.Cut():
            kernel.cut(step.addresses)
        case words.Uncut():
            kernel.uncut(step.addresses)
        case words.Unmute():
            kernel.unmute(step.connections)
        case words.RemoveAddresses():
            kernel.remove_addresses(step.addresses)
        case words.Teardown():
            kernel.teardown(step.uid, step.iqns)
        case words.Unmap() | words.UnmapAnchor():
            kernel.unmap(step.number)
        case words.MapAnchor():
            kernel.map_anchor(step.generation)
        case words.Claim():
            store.claim(step.spec, step.revision, hands.node, hands.lease)
        case words.TakeHold():
            _permit(hands, step.spec, step.token)
            _take_hold(step, hands)
        case words.FinishAmendment():
            store.finish_amendment(step.uid, step.revision)
        case words.Map():
            _permit(hands, step.spec, step.token)
            kernel.map_image(step.spec, step.client)
        case words.Build():
            _permit(hands, step.spec, step.device.token)
            with hands.during(step.spec.uid, Phase.RESTORE):
                reservations = _reservations(step.spec, step.device.token, hands)
            kernel.build(step.spec, step.device, step.access, reservations)
        case words.OpenPath():
            _permit(hands, step.spec, step.token)
            _open_path(step, hands)
        case words.MarkServed():
            store.mark_served(step.spec, step.token, step.addresses)
        case words.ClosePath():
            kernel.close_path(step.spec, step.path)
        case words.SetInitiators():
            recorded = _reservations(step.spec, step.token, hands) if step.newcomers else None
            kernel.set_initiators(step, recorded)
        case words.Forget():
            kernel.forget(step.spec, step.amendment.nexuses)
        case words.SetDiscovery():
            kernel.set_discovery(step.credentials)
        case words.CloseDiscovery():
            kernel.close_discovery()
        case words.RefreshHold():
            _permit(hands, step.spec, step.token)
            _refresh_hold(step, hands)
        case words.Release():
            _release(step, hands)
        case words.ForsakeHold():
            _forsake_hold(step, hands)
        case words.RequestMove():
            store.start_move(step.spec.uid, step.token, step.to, step.why)
        case words.FinishMove():
            store.finish_move(step.uid, step.revision)
        case words.DropRecords():
            _drop_records(step, hands)
        case words.DropFences():
            store.drop_fences(step.intents)


def _reservations(spec: ImageSpec, token: int, hands: Hands) -> ReservationState | None:
    """What is recorded under this claim, read now; None where the image keeps no reservations."""
    if not spec.attributes.emulate_pr:
        return None
    return _storage(hands).reservations(spec, token)


def _open_path(step: words.OpenPath, hands: Hands) -> None:
    """Probe before anything else: whoever has the address must notice nothing of us."""
    if step.probe:
        hands.kernel.probe(step.path)
    hands.kernel.open_path(step.spec, step.path, lambda: _permit_path(hands, step.spec, step.token))
    with hands.during(step.spec.uid, Phase.ANNOUNCE):
        _nudge(step, hands)
    if step.probe:
        hands.store.mark_served(step.spec, step.token, frozenset({step.path.address}))


def _nudge(step: words.OpenPath, hands: Hands) -> None:
    """Tell the initiators that were connected; where that fails they notice by themselves, later: the path is up."""
    with suppress(Unavailable, KernelRefused, Stuck):
        for connection in hands.store.connections_of(step.spec.uid):
            if connection.portal == step.path.address:
                with suppress(KernelRefused):
                    hands.kernel.nudge(connection)


def _storage(hands: Hands) -> Storage:
    if hands.storage is None:
        raise StorageUnavailable("this node has no connection to Ceph; see the log of rbdgate-agent")
    return hands.storage


def _permit(hands: Hands, spec: ImageSpec, token: int) -> None:
    if not hands.permit(spec.uid, token):
        raise TenureOver(f"image {spec.name}: this node's tenure does not cover claim {token} now; not serving it")


def _permit_path(hands: Hands, spec: ImageSpec, token: int) -> None:
    """As `_permit`; and where nobody watches the tenure or catches changes of reservations, nothing is to be heard."""
    _permit(hands, spec, token)
    if not hands.guarded():
        raise Unavailable(f"image {spec.name}: this node's guard gives no sign of life now; no path is opened")


def _mine(hands: Hands, spec: ImageSpec, token: int, krbd: Instance) -> tuple[Holder, tuple[HolderRecord, ...]]:
    """This node's instances as the header's holder and as records."""
    rados = _storage(hands).instance
    record = HolderRecord(spec.uid, krbd, hands.node, token, "krbd", hands.boot_id)
    holder = Holder(token=token, node=hands.node, instances=(krbd, rados))
    return holder, (record, replace(record, instance=rados, kind="rados"))


def _take_hold(step: words.TakeHold, hands: Hands) -> None:
    spec, token = step.spec, step.token
    mine, records = _mine(hands, spec, token, step.client)
    recorded = {record.instance: record for record in hands.store.records_of(spec.uid)}
    # Taken again with the very client that had it open, nobody would fence what an OSD still has of that client.
    _expect_complete(spec, tuple(r for r in recorded.values() if r.instance == step.client), hands)
    openers = _storage(hands).openers(spec)
    victims = frozenset((set(recorded) | openers.instances) - set(mine.instances))
    if victims:
        live = hands.store.live_instances()
        _record_forgotten(step, openers.holder, {i: n for i, n in live.items() if i not in recorded}, hands)
        _refuse_live_victims(victims, live, spec, hands)
        intents = tuple(
            FenceIntent(
                instance=victim,
                node=recorded[victim].node if victim in recorded else _holder_node(openers, victim),
                by=hands.node,
                image_uid=spec.uid,
                token=token,
                boot_id=recorded[victim].boot_id if victim in recorded else "",
            )
            for victim in sorted(victims)
        )
        hands.store.write_fence(intents, spec.uid, token)
        _storage(hands).fence(spec, victims)
        hands.fenced(intents)
    hands.store.add_records(spec.uid, token, records)
    _storage(hands).take(spec, openers.holder, mine, step.amendment)
    if victims:  # fenced, and out of the header: the intents keep their entries alive, and no later taker fences anew
        hands.store.drop_records(spec.uid, tuple(r for i, r in sorted(recorded.items()) if i in victims))
    left_behind = openers.lock_owners - victims
    if left_behind:  # by a clean release, or by this node itself: the kernel would blocklist that live client
        _storage(hands).break_locks(spec, left_behind)


def _holder_node(openers: Openers, victim: Instance) -> Label | None:
    holder = openers.holder
    return holder.node if holder is not None and victim in holder.instances else None


def _record_forgotten(
    step: words.TakeHold, holder: Holder | None, live: Mapping[Instance, Label], hands: Hands
) -> None:
    """Record live clients that the header names and etcd, restored from an older backup, does not know to hold it.

    Their node lets go of what is on record of it and not in its kernel; of what is only in the header it knows nothing.
    """
    named = holder.instances if holder is not None and not holder.released else ()
    forgotten = tuple(
        HolderRecord(step.spec.uid, instance, live[instance], holder.token, kind)
        for instance, kind in zip(named, ("krbd", "rados"), strict=False)  # in the order of `_mine`
        if holder is not None and live.get(instance, hands.node) != hands.node
    )
    if forgotten:
        hands.store.add_records(step.spec.uid, step.token, forgotten)


def _refuse_live_victims(
    victims: frozenset[Instance], live: Mapping[Instance, Label], spec: ImageSpec, hands: Hands
) -> None:
    """A live node's instance serves all its images: it is never fenced for the sake of one."""
    for victim in sorted(victims):
        node = live.get(victim)
        if node is not None and node != hands.node:
            raise FenceUnconfirmed(
                f"image {spec.name} is still open on live gateway {node} (client {victim}), which is not fenced for one"
                f" image: waiting for it to let go; see `rbdgate node show {node}`"
            )


def _drop_records(step: words.DropRecords, hands: Hands) -> None:
    """Forget those that the blocklist names: an intent is no fence, its writer may have died before the entry."""
    if hands.storage is None:
        return  # which of them are fenced is unknown now
    fenced = hands.storage.blocklisted()
    for uid in sorted({record.image_uid for record in step.records}):
        dropped = tuple(r for r in step.records if r.image_uid == uid and r.instance in fenced)
        if dropped:
            hands.store.drop_records(uid, dropped)


def _refresh_hold(step: words.RefreshHold, hands: Hands) -> None:
    mine, records = _mine(hands, step.spec, step.token, hands.kernel.anchor_instance())
    old = [r for r in hands.store.records_of(step.spec.uid) if r.token == step.token and r.node == hands.node]
    hands.store.add_records(step.spec.uid, step.token, records)
    _storage(hands).refresh(step.spec, mine)
    gone = tuple(r for r in old if r.instance not in mine.instances and r.kind == "rados")
    if gone:  # the header names the new client now: whatever the old one still had under way fails its comparison
        hands.store.drop_records(step.spec.uid, gone)


def _release(step: words.Release, hands: Hands) -> None:
    spec, token = step.spec, step.token
    own = tuple(r for r in hands.store.records_of(spec.uid) if r.token == token and r.node == hands.node)
    _expect_complete(spec, own, hands)
    _storage(hands).release(spec, token)
    hands.store.release(spec.uid, token, own)


def _forsake_hold(step: words.ForsakeHold, hands: Hands) -> None:
    """The header before the records: dying in between leaves records, by which the next turn finds its way here."""
    _expect_complete(step.spec, step.records, hands)
    for token in sorted({record.token for record in step.records}):
        _storage(hands).release(step.spec, token)
    hands.store.drop_records(step.spec.uid, step.records)


def _expect_complete(spec: ImageSpec, own: tuple[HolderRecord, ...], hands: Hands) -> None:
    """Nothing is let go as clean that an OSD may still write: asked after the unmap, when no request can begin."""
    for record in own:
        if record.kind == "krbd" and not hands.complete(record.instance):
            raise RequestsGivenUp(
                f"image {spec.name}: this node's kernel (client {record.instance}) gave a request up, or may have, that"
                " an OSD could still carry out: that client is to be fenced, and this node begins anew with another one"
            )
