"""Making, adopting, moving and deleting images on fakes: what is written, in which order, and what a cut leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.actions import changing, cluster, images
from gateway.actions.choosing import IdentityWish
from gateway.actions.images import Wish
from gateway.actions.looking import look
from gateway.actions.waiting import NotReached
from gateway.errors import (
    AlreadyExists,
    BadInput,
    Conflict,
    NotFound,
    OutcomeUnknown,
    RbdgateError,
    Refused,
    StorageUnavailable,
)
from gateway.model import ImageName, ImageSpec, Iqn, Label, Network, NodeRecord, NodeState, parse_address
from gateway.report import ImageState
from gateway.schema import write_node
from gateway.store.values import Put
from tests.fakes.ceph import FakeImage
from tests.fakes.operation import Operation, operation

NAME = ImageName.parse("rbd/disk1")
OTHER = ImageName.parse("rbd/disk2")
GIB = 1 << 30


def create(made: Operation, name: ImageName = NAME, size: int = GIB, wish: Wish | None = None) -> ImageSpec:
    """Create an image with two paths."""
    return images.create(made.store, made.ceph, name, size, wish or Wish(), random=made.random)


def adopt(made: Operation, name: ImageName = NAME, wish: Wish | None = None, **tagged: str) -> ImageSpec:
    """Adopt an image; `t1="10.0.1.9"` is a path that keeps tag 1."""
    tags = {int(tag[1:]): parse_address(address) for tag, address in tagged.items()}
    return images.adopt(made.store, made.ceph, name, wish or Wish(), tagged=tags, random=made.random)


def keys(made: Operation) -> list[str]:
    """Every key in etcd that is not a node's."""
    items = made.etcd.range("/rbdgate/").items
    return [item.key for item in items if not any(f"/{kind}/" in item.key for kind in ("live", "status", "nodes"))]


def test_initialise() -> None:
    """A cluster takes Ceph's id, makes its anchor and writes its settings; a second time nothing is changed."""
    made = Operation()
    networks = (Network.parse("a=10.0.1.0/24,10.0.1.1-10.0.1.9"),)

    def initialise(pool: str) -> object:
        return cluster.initialise(made.store, made.ceph, networks=networks, anchor_pool=pool, iqn_prefix=None)

    with pytest.raises(NotFound, match="no pool 'nopool'"):
        initialise("nopool")
    assert keys(made) == []
    assert initialise("rbd") == made.store.view().settings
    assert made.ceph.anchors == ["rbd"]
    with pytest.raises(AlreadyExists, match="cluster show"):
        initialise("rbd")
    assert made.ceph.anchors == ["rbd"]


def test_create() -> None:
    """A created image is served at once, with a copy of its spec that names RBD's id."""
    made = operation()
    spec = create(made)
    assert made.ceph.copies == {"id1": spec}
    assert spec.image_id == "id1"
    image = images.await_serving(made.store, NAME, made.patience())
    assert (image.state, image.size, len(image.paths)) == (ImageState.SERVING, GIB, 2)
    assert image.iqn == str(spec.identity.iqn)


@pytest.mark.parametrize(
    ("name", "size", "kind", "reason"),
    [
        ("rbd/disk2", 1000, BadInput, "size 1000 is not a positive multiple of 512"),
        ("rbd/disk2", 0, BadInput, "size 0"),
        ("nopool/disk2", GIB, NotFound, "no pool 'nopool'"),
        ("rbd/disk1", GIB, AlreadyExists, "served by this cluster already"),
        ("rbd/there", GIB, AlreadyExists, r"exists already; `rbdgate image adopt rbd/there` serves it"),
    ],
)
def test_refused_creates_change_nothing(name: str, size: int, kind: type[RbdgateError], reason: str) -> None:
    """A create that is refused leaves neither a key nor an RBD image behind."""
    made = operation()
    create(made)
    made.ceph.images[ImageName.parse("rbd/there")] = FakeImage("id7", GIB)
    before = keys(made), dict(made.ceph.images)
    with pytest.raises(kind, match=reason):
        create(made, ImageName.parse(name), size)
    assert (keys(made), made.ceph.images) == before


def test_an_address_lost_to_a_faster_one_is_chosen_anew() -> None:
    """When somebody takes the chosen address meanwhile, another is chosen; a named one is refused, and taken back."""
    made = operation()
    original, thief = made.ceph.write_copy, operation(agents=0)
    thief.drawn = 100  # other UUIDs

    def steal_first(spec: ImageSpec) -> None:
        made.ceph.write_copy = original  # type: ignore[method-assign]
        stolen = create(thief, OTHER)
        made.store.create_image(replace(stolen, paths=spec.paths))
        original(spec)

    made.ceph.write_copy = steal_first  # type: ignore[method-assign]
    spec = create(made)
    assert str(spec.paths[0].address) == "10.0.1.101"
    assert made.ceph.copies[spec.image_id] == spec
    named = Wish(1, ((Label("storage-1"), parse_address("10.0.1.50")),))

    def steal_named(spec: ImageSpec) -> None:
        stolen = create(thief, ImageName.parse("rbd/disk3"))
        made.store.create_image(replace(stolen, paths=spec.paths))
        original(spec)

    made.ceph.write_copy = steal_named  # type: ignore[method-assign]
    with pytest.raises(AlreadyExists, match=r"address 10\.0\.1\.50 is taken by image rbd/disk3"):
        create(made, ImageName.parse("rbd/disk4"), wish=named)
    assert ImageName.parse("rbd/disk4") in made.ceph.trash


def test_a_create_without_ceph() -> None:
    """When Ceph fails midway the new RBD image is put away, and when that fails too it is named."""
    made = operation()
    made.ceph.fail["write_copy"] = StorageUnavailable("Ceph did not answer")
    with pytest.raises(StorageUnavailable, match="did not answer"):
        create(made)
    assert (made.ceph.images, list(made.ceph.trash)) == ({}, [NAME])
    made.ceph.fail["move_to_trash"] = StorageUnavailable("nor now")
    with pytest.raises(StorageUnavailable, match=r"RBD image rbd/disk1 that was just made is still there \(nor now\)"):
        create(made)
    assert [key for key in keys(made) if "images" in key] == []


def test_an_unknown_outcome_takes_nothing_back() -> None:
    """If it is not known whether the spec was written, the RBD image stays: a gateway may be serving it."""
    made = operation()
    original = made.ceph.write_copy

    def then_lose(spec: ImageSpec) -> None:
        original(spec)
        made.etcd.lose_next(*[False] * 50)

    made.ceph.write_copy = then_lose  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        create(made)
    assert NAME in made.ceph.images


def test_adopt_keeps_what_it_was_known_by() -> None:
    """An adopted image has the identity and the paths it had elsewhere, and its own size."""
    made = operation()
    made.ceph.images[NAME] = FakeImage("abc", 5 * 512)
    wanted = IdentityWish(Iqn("iqn.2016-05.com.petasan:00001"), "serial-1", "PETASAN", "RBD")
    spec = adopt(made, wish=Wish(identity=wanted), t2="10.0.1.60", t1="10.0.1.61")
    assert (spec.image_id, spec.size) == ("abc", 5 * 512)
    assert (spec.identity.serial, spec.identity.vendor) == ("serial-1", "PETASAN")
    assert [(p.tag, str(p.address)) for p in spec.paths] == [(1, "10.0.1.61"), (2, "10.0.1.60")]
    assert images.await_serving(made.store, NAME, made.patience()).state is ImageState.SERVING


def test_refused_adoptions_change_nothing() -> None:
    """Each thing that stands in the way is named, and neither etcd nor the image is touched."""
    made = operation()
    spec = create(made, OTHER)
    made.ceph.images[NAME] = FakeImage("abc", GIB, ("it has the journaling feature", "it is open at 10.0.0.9:0/7"))
    odd = ImageName.parse("rbd/odd")
    made.ceph.images[odd] = FakeImage("abd", GIB)
    before, copies = keys(made), dict(made.ceph.copies)
    with pytest.raises(Refused, match="journaling feature; it is open at"):
        adopt(made)
    same_iqn = Wish(identity=IdentityWish(iqn=spec.identity.iqn))
    same_serial = Wish(identity=IdentityWish(serial=spec.identity.serial.upper()))
    for wish, words in ((same_iqn, "IQN .* taken by image rbd/disk2"), (same_serial, "serial .* taken by image")):
        with pytest.raises(AlreadyExists, match=words):
            adopt(made, odd, wish)
    with pytest.raises(BadInput, match="outside every network"):
        adopt(made, odd, t1="10.9.9.9")
    with pytest.raises(AlreadyExists, match="taken by image rbd/disk2"):
        adopt(made, odd, t1=str(spec.paths[0].address))
    with pytest.raises(BadInput, match="path tags must be 1 to 1"):
        adopt(made, odd, t2="10.0.1.60")
    with pytest.raises(NotFound, match="does not exist"):
        adopt(made, ImageName.parse("rbd/none"))
    assert (keys(made), made.ceph.copies) == (before, copies)


def test_move() -> None:
    """A moved image is served by the node that was asked for, or by the best other one."""
    made = operation(agents=3)
    create(made)
    first = images.await_serving(made.store, NAME, made.patience()).holder
    other = next(str(agent.node) for agent in made.agents if str(agent.node) != first)
    to = images.request_move(made.store, NAME, Label(other))
    assert images.await_serving(made.store, NAME, made.patience(), by=to).holder == other
    to = images.request_move(made.store, NAME, None)
    assert str(to) != other
    assert images.await_serving(made.store, NAME, made.patience(), by=to).holder == str(to)
    assert made.store.view().moves == {}


def test_a_move_that_was_given_up_is_told_at_once() -> None:
    """Somebody else has the image, and no move is on record any more: that is no success, and nothing to wait for."""
    made = operation(agents=3)
    create(made)
    holder = images.await_serving(made.store, NAME, made.patience()).holder
    other = next(str(agent.node) for agent in made.agents if str(agent.node) != holder)
    with pytest.raises(Refused, match=f"given up: node {other} did not take it; {holder} has it"):
        images.await_serving(made.store, NAME, made.patience(), by=Label(other))


def test_refused_moves() -> None:
    """A move to where it cannot go is refused at once, with the reason, and nothing is asked for."""
    made = operation(agents=3)
    create(made)
    holder = images.await_serving(made.store, NAME, made.patience()).holder
    dead, drained = (agent for agent in made.agents if str(agent.node) != holder)
    made.etcd.revoke_lease(dead.lease)
    made.etcd.transact([], [Put(made.store.keys.node(drained.node), write_node(NodeRecord(NodeState.DRAIN)))])
    refusals: list[tuple[ImageName, str | None, type[RbdgateError], str]] = [
        (NAME, "gw9", NotFound, "no node gw9; known are: gw1, gw2, gw3"),
        (NAME, str(dead.node), Refused, "is not live"),
        (NAME, str(drained.node), Refused, "is drained: it does not take image rbd/disk1"),
        (NAME, holder, Refused, "holds image rbd/disk1 already"),
        (NAME, None, Refused, "no other live and active node"),
        (OTHER, "gw1", NotFound, "no image rbd/disk2"),
    ]
    for name, to, kind, reason in refusals:
        with pytest.raises(kind, match=reason):
            images.request_move(made.store, name, Label(to) if to else None)
    made.etcd.transact([], [Put(made.store.keys.image(OTHER), b"junk")])
    with pytest.raises(Refused, match="is broken"):
        images.request_move(made.store, OTHER, None)
    assert made.store.view().moves == {}


def test_a_move_waits_for_a_node_that_is_starting() -> None:
    """A node that says why it can take nothing yet is waited for before the move is asked for, and then refused."""
    made = operation(agents=2)
    create(made)
    holder = images.await_serving(made.store, NAME, made.patience()).holder
    (other,) = (agent for agent in made.agents if str(agent.node) != holder)
    word = made.store.view().live[other.node]
    made.store.refresh_live(replace(word, obstacle="it is starting"))
    made.agents.clear()  # or the agent would say at its next turn that it is ready
    began = made.now
    images.await_fit(made.store, NAME, other.node, made.patience(5))
    assert made.now - began >= 5
    with pytest.raises(Refused, match="it is starting: it does not take image rbd/disk1"):
        images.request_move(made.store, NAME, other.node)
    made.store.refresh_live(word)
    images.await_fit(made.store, NAME, other.node, made.patience(5))
    assert images.request_move(made.store, NAME, other.node) == other.node


def test_moves_against_an_operators_word() -> None:
    """Not away from a pin that can serve it, not to a node it is kept away from, and not at all while it is stopped."""
    made = operation(agents=3)
    create(made)
    holder = Label(images.await_serving(made.store, NAME, made.patience()).holder or "")
    other, third = (agent.node for agent in made.agents if agent.node != holder)
    changing.change(made.store, NAME, lambda spec: replace(spec, pin=holder, keep_away=(third,)))
    with pytest.raises(Refused, match=f"is pinned to {holder} and would go back"):
        images.request_move(made.store, NAME, other)
    with pytest.raises(Refused, match=f"{third} is one that the image is kept away from"):
        images.request_move(made.store, NAME, third)
    changing.change(made.store, NAME, lambda spec: replace(spec, stopped=True))
    with pytest.raises(Refused, match="is stopped; see `rbdgate image start`"):
        images.request_move(made.store, NAME, holder)
    assert made.store.view().moves == {}


def test_waiting_says_why() -> None:
    """An image that nobody takes up is accepted and not reached, with the reason, after the time that was given."""
    made = operation(agents=0)
    create(made)
    with pytest.raises(
        NotReached, match="not reached within 5 s: image rbd/disk1 is unclaimed: no node can take it: none ever joined"
    ):
        images.await_serving(made.store, NAME, made.patience(5))
    assert made.now == pytest.approx(5)
    made.add_agents(1)
    made.agents[0].broken = "the kernel said no"
    with pytest.raises(NotReached, match="is failed at gw1: the kernel said no"):
        images.await_serving(made.store, NAME, made.patience(5))


def test_waiting_outlasts_an_election() -> None:
    """An etcd that is silent for a while is waited for."""
    made = operation()
    create(made)
    patience = made.patience()
    made.etcd.down = True

    def up_again(seconds: float) -> None:
        made.etcd.down = made.now < 3
        made.now += seconds
        if not made.etcd.down:
            made.settle()

    image = images.await_serving(made.store, NAME, replace(patience, sleep=up_again))
    assert image.state is ImageState.SERVING


def test_delete() -> None:
    """A deleted image is let go first, then its data is in the trash and its names are free."""
    made = operation()
    spec = create(made)
    images.await_serving(made.store, NAME, made.patience())
    images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)
    assert list(made.ceph.trash) == [NAME]
    assert keys(made) == ["/rbdgate/default/settings"]
    assert made.ceph.copies[spec.image_id].deleting
    with pytest.raises(NotFound):
        images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)


def test_delete_can_keep_the_image() -> None:
    """With keep the RBD image stays where it is, and can be adopted again."""
    made = operation()
    create(made)
    made.settle()
    images.delete(made.store, made.ceph, NAME, made.patience(), keep=True)
    assert list(made.ceph.images) == [NAME]
    adopt(made)
    assert images.await_serving(made.store, NAME, made.patience()).state is ImageState.SERVING


def test_delete_waits_for_the_holder_and_goes_on_later() -> None:
    """A holder that does not let go keeps the data where it is; a second run finishes."""
    made = operation()
    create(made)
    made.settle()
    for agent in made.agents:
        agent.stuck = True
    with pytest.raises(NotReached, match="has not let image rbd/disk1 go yet"):
        images.delete(made.store, made.ceph, NAME, made.patience(5), keep=False)
    assert NAME in made.ceph.images
    assert look(made.store).image(NAME).state is ImageState.DELETING
    for agent in made.agents:
        agent.stuck = False
    images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)
    assert (list(made.ceph.trash), look(made.store).images) == ([NAME], ())


def test_delete_fences_what_a_dead_holder_left() -> None:
    """A dead node's clients are fenced before the data goes, and those of a live one are waited for."""
    made = operation(agents=1)
    create(made)
    made.settle()
    dead = made.agents.pop()
    made.etcd.revoke_lease(dead.lease)
    images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)
    assert made.ceph.fenced == [dead.instance]
    assert made.ceph.acts.index("fence") < made.ceph.acts.index("move_to_trash")
    assert keys(made) == ["/rbdgate/default/settings"]


@pytest.mark.parametrize("act", ["write_copy", "fence", "move_to_trash"])
def test_a_delete_that_was_cut_short_is_finished(act: str) -> None:
    """Wherever Ceph fails, nothing is forgotten, and a second run finishes."""
    made = operation(agents=1)
    create(made)
    made.settle()
    dead = made.agents.pop()
    made.etcd.revoke_lease(dead.lease)
    made.ceph.fail[act] = StorageUnavailable("Ceph did not answer")
    with pytest.raises(StorageUnavailable):
        images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)
    assert NAME in made.store.view().images
    made.ceph.fail.clear()
    images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)
    assert (list(made.ceph.trash), keys(made)) == ([NAME], ["/rbdgate/default/settings"])


def test_a_delete_whose_image_is_gone_already() -> None:
    """If the RBD image went by hand, or in a run cut short just after, the spec is still forgotten."""
    made = operation()
    create(made)
    made.settle()
    made.ceph.trash[NAME] = made.ceph.images.pop(NAME)
    images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)
    assert keys(made) == ["/rbdgate/default/settings"]


def test_an_open_image_is_not_put_away() -> None:
    """An image that a stranger has open stays, with its spec, and the stranger is named."""
    made = operation()
    create(made)
    made.ceph.images[NAME].open_at = "10.0.0.77:0/1"
    with pytest.raises(Refused, match=r"open at 10\.0\.0\.77"):
        images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)
    assert NAME in made.store.view().images


def test_a_change_meets_another() -> None:
    """A change is decided anew on what somebody else wrote meanwhile, and neither is lost."""
    made = operation(agents=0)
    create(made)
    calls = 0

    def with_one(spec: ImageSpec) -> ImageSpec:
        nonlocal calls
        calls += 1
        if calls == 1:
            changing.change(made.store, NAME, lambda s: replace(s, initiators=(Iqn("iqn.2026-11.x:other"),)))
        return replace(spec, initiators=(*spec.initiators, Iqn("iqn.2026-11.x:mine")))

    spec, _ = changing.change(made.store, NAME, with_one)
    assert [str(iqn) for iqn in spec.initiators] == ["iqn.2026-11.x:other", "iqn.2026-11.x:mine"]

    def always_late(spec: ImageSpec) -> ImageSpec:
        changing.change(made.store, NAME, lambda s: replace(s, size=s.size + 512))
        return replace(spec, deleting=True)

    with pytest.raises(Conflict):
        changing.change(made.store, NAME, always_late)
