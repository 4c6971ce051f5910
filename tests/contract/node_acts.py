"""What a node's kernel and its RADOS client do, act by act, for the real ones and the fakes alike.

Each scenario works on a bench and says what it saw, as JSON values; `EXPECTED` has what all benches must say. The
source of this file runs inside a lab's gateway as it is, so it imports nothing but the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gateway.access import Access
from gateway.apply import KernelDoor, Storage
from gateway.errors import RbdgateError, TenureOver
from gateway.images.holder import Holder
from gateway.model import ImageSpec, Instance, Label
from gateway.observed import DeviceName, Kernel, Mapping
from gateway.plan import path_is_up
from gateway.profile import differences


class Bench(Protocol):
    """A node: its kernel, two RADOS clients (another node's is the second), and a way to make images."""

    kernel: KernelDoor
    storage: Storage
    other: Storage

    def image(self, number: int) -> ImageSpec:
        """An image of that number, made if it is not there, with one path on each network."""
        ...

    def look(self) -> Kernel:
        """The kernel now, by a view that knows the images made so far."""
        ...

    def write(self, mapping: Mapping) -> str:
        """Write to the mapped device; `done`, or `refused` where it ends in an error."""
        ...

    def blocklisted(self) -> frozenset[Instance]:
        """Who has an entry."""
        ...


def outcome(act: Callable[..., Any], *words: Any, **named: Any) -> str:
    """`done`, or the name of the error the act ended in."""
    try:
        act(*words, **named)
    except RbdgateError as error:
        return type(error).__name__
    return "done"


def mapped(bench: Bench, spec: ImageSpec, token: int = 7) -> Mapping:
    """The image mapped on the present anchor's client, as a takeover does it."""
    client = bench.kernel.anchor_instance()
    take(bench, spec, client, token)
    bench.kernel.map_image(spec, client)
    (found,) = bench.look().mappings_of(spec)
    return found


def take(bench: Bench, spec: ImageSpec, client: Instance, token: int = 7) -> Holder:
    """Have the header name that client and this node's other one."""
    mine = Holder(token, Label("gw1"), (client, bench.storage.instance))
    bench.storage.take(spec, bench.storage.openers(spec).holder, mine)
    return mine


def maps_share_a_client(bench: Bench) -> list[Any]:
    """An image is mapped on the anchor's client, watches and locks as that one, and leaves nothing when unmapped."""
    one, two = bench.image(1), bench.image(2)
    said: list[Any] = [outcome(bench.kernel.anchor_instance), outcome(bench.kernel.map_image, one, NOBODY)]
    bench.kernel.map_anchor(1)
    client = bench.kernel.anchor_instance()
    for spec in (one, two):
        found = mapped(bench, spec)
        openers = bench.other.openers(spec)
        said.append([found.instance == client, found.generation, found.serves(spec), found.read_only])
        said.append([openers.instances == {client, bench.storage.instance}, openers.lock_owners == {client}])
        said.append(bench.write(found))
        bench.kernel.unmap(found.number)
        bench.storage.release(spec, 7)
        openers = bench.other.openers(spec)
        said.append([sorted(map(str, openers.instances)), len(openers.lock_owners)])
        said.append(outcome(bench.kernel.unmap, found.number))
    return said


def a_generation_is_a_client(bench: Bench) -> list[Any]:
    """Each generation has its own client; maps go on the newest anchor's, and a client ends with its last mapping."""
    spec = bench.image(1)
    bench.kernel.map_anchor(1)
    first = bench.kernel.anchor_instance()
    bench.kernel.map_anchor(2)
    second = bench.kernel.anchor_instance()
    said: list[Any] = [first == second, outcome(bench.kernel.map_image, spec, first)]
    said.append(mapped(bench, spec).instance == second)
    for mapping in sorted(bench.look().mappings, key=lambda m: m.read_only):
        bench.kernel.unmap(mapping.number)
    said.append(len(bench.look().mappings))
    bench.kernel.map_anchor(2)
    third = bench.kernel.anchor_instance()
    return [*said, third in (first, second)]


def an_export_comes_and_goes(bench: Bench) -> list[Any]:
    """Built with nothing enabled, opened behind a cut, closed with its TPG left, torn down, and only then unmapped."""
    spec, access = bench.image(1), Access({})
    device, path = DeviceName(spec.uid, 7), spec.paths[0]
    bench.kernel.map_anchor(1)
    said: list[Any] = [outcome(bench.kernel.build, spec, device, access, None)]
    found = mapped(bench, spec)
    said.append(outcome(bench.kernel.build, spec, device, access, None))
    said += [state(bench, spec), outcome(bench.kernel.unmap, found.number)]
    said.append(outcome(bench.kernel.open_path, spec, path, _refuse))
    said.append(state(bench, spec))
    said += [outcome(bench.kernel.open_path, spec, path, _allow), state(bench, spec)]
    said += [outcome(bench.kernel.open_path, spec, path, _allow), state(bench, spec)]
    said += [outcome(bench.kernel.close_path, spec, path), state(bench, spec)]
    said += [outcome(bench.kernel.close_path, spec, path), state(bench, spec)]
    iqns = frozenset({spec.identity.iqn})
    said += [outcome(bench.kernel.teardown, spec.uid, iqns), state(bench, spec)]
    said += [outcome(bench.kernel.teardown, spec.uid, iqns), outcome(bench.kernel.unmap, found.number)]
    bench.kernel.uncut(frozenset({path.address}))
    return [*said, state(bench, spec), len(bench.look().mappings_of(spec))]


def a_withdrawal_cuts_first(bench: Bench) -> list[Any]:
    """Cut and address off work on what is there and on what is not, in that order."""
    spec, access = bench.image(1), Access({})
    bench.kernel.map_anchor(1)
    mapped(bench, spec)
    bench.kernel.build(spec, DeviceName(spec.uid, 7), access, None)
    for path in spec.paths:
        bench.kernel.open_path(spec, path, _allow)
    said: list[Any] = [state(bench, spec)]
    addresses = frozenset(path.address for path in spec.paths)
    for _ in range(2):
        said += [outcome(bench.kernel.cut, addresses), state(bench, spec)]
    for _ in range(2):
        said += [outcome(bench.kernel.remove_addresses, addresses), state(bench, spec)]
    return said


def a_fenced_client_is_refused(bench: Bench) -> list[Any]:
    """After a fence the victim's writes and maps fail, its lock and watch are gone, and another client goes on."""
    spec = bench.image(1)
    bench.kernel.map_anchor(1)
    found = mapped(bench, spec)
    said: list[Any] = [bench.write(found)]
    before = bench.blocklisted()
    bench.other.fence(spec, frozenset({found.instance}))
    said.append(bench.blocklisted() - before == {found.instance})
    said += [bench.write(found), len(bench.other.openers(spec).lock_owners)]
    bench.kernel.unmap(found.number)
    said.append(outcome(bench.kernel.map_image, spec, found.instance) in ("Blocklisted", "StorageUnavailable"))
    bench.kernel.map_anchor(2)
    again = mapped(bench, spec, 9)
    said += [again.instance != found.instance, bench.write(again)]
    said.append(bench.other.openers(spec).lock_owners == {again.instance})
    return [*said, bench.blocklisted() - before == {found.instance}]


def a_living_owner_gives_its_lock_up(bench: Bench) -> list[Any]:
    """A map asks a living owner for the lock instead of fencing it; what both then write is theirs to sort out."""
    spec = bench.image(1)
    bench.kernel.map_anchor(1)
    first = mapped(bench, spec)
    bench.write(first)
    before = bench.blocklisted()
    bench.kernel.map_anchor(2)
    client = bench.kernel.anchor_instance()
    take(bench, spec, client)
    said: list[Any] = [outcome(bench.kernel.map_image, spec, client), bench.blocklisted() == before]
    second = next(m for m in bench.look().mappings_of(spec) if m.instance == client)
    said += [bench.other.openers(spec).lock_owners == {client}, bench.write(second)]
    for mapping in (first, second):
        bench.kernel.unmap(mapping.number)
    return [*said, len(bench.other.openers(spec).lock_owners)]


def the_header_is_swapped_once(bench: Bench) -> list[Any]:
    """A header is taken from exactly the holder that was read; who was overtaken refreshes and releases nothing."""
    spec = bench.image(1)
    seen = bench.storage.openers(spec).holder
    mine = Holder(11, Label("gw1"), (bench.storage.instance,))
    his = Holder(12, Label("gw2"), (bench.other.instance,))
    said: list[Any] = [outcome(bench.storage.take, spec, seen, mine), outcome(bench.storage.take, spec, seen, mine)]
    said += [outcome(bench.other.take, spec, seen, his), outcome(bench.storage.refresh, spec, mine)]
    said += [outcome(bench.other.take, spec, mine, his), outcome(bench.storage.refresh, spec, mine)]
    said += [outcome(bench.storage.release, spec, 11), bench.other.openers(spec).holder == his]
    said += [outcome(bench.other.release, spec, 12), outcome(bench.other.release, spec, 12)]
    openers = bench.storage.openers(spec)
    return [*said, openers.holder is not None and openers.holder.released, len(openers.instances)]


def state(bench: Bench, spec: ImageSpec) -> list[Any]:
    """Of the export: devices, what differs, and for each path whether enabled, portals, address, cut, up."""
    kernel = bench.look()
    devices, target = kernel.devices_of(spec.uid), kernel.target(spec.identity.iqn)
    paths = []
    for path in spec.paths:
        tpg = target.tpg(path.tag) if target else None
        address, cut = path.address in kernel.addresses, path.address in kernel.cuts
        enabled, portals = (tpg.enabled, len(tpg.portals)) if tpg else (False, 0)
        paths.append([enabled, portals, address, cut, path_is_up(spec, path, kernel)])
    whole = [str(d.name) for d in devices], len(differences(spec, devices[0], target)) if devices else -1
    return [*whole, *paths]


NOBODY = Instance("192.0.2.1:0/1")


def _allow() -> None:
    """The tenure covers it."""


def _refuse() -> None:
    raise TenureOver("not any more")


SCENARIOS = (
    maps_share_a_client,
    a_generation_is_a_client,
    an_export_comes_and_goes,
    a_withdrawal_cuts_first,
    a_fenced_client_is_refused,
    a_living_owner_gives_its_lock_up,
    the_header_is_swapped_once,
)
