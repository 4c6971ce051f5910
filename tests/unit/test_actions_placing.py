"""Where an image is and whether at all, its size, and an even spread, on fakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.actions import balancing, images, placing, resizing
from gateway.actions.changing import Changed, await_applied, change
from gateway.actions.images import Wish
from gateway.actions.looking import look
from gateway.actions.waiting import NotReached
from gateway.errors import BadInput, NotFound, Refused, StorageUnavailable
from gateway.model import ImageName, ImageSpec, Label
from gateway.placement import MOVES_AT_ONCE
from gateway.report import ImageState
from tests.fakes.operation import Operation, operation

NAME = ImageName("rbd", "disk1")
GIB = 1 << 30


def serving(count: int = 1, agents: int = 2) -> Operation:
    """A cluster that serves some images."""
    made = operation(agents)
    for number in range(1, count + 1):
        images.create(made.store, made.ceph, ImageName("rbd", f"disk{number}"), GIB, Wish(1), random=made.random)
    made.settle()
    return made


def holder(made: Operation) -> Label:
    """Who holds the image."""
    spec, _ = made.store.image(NAME)
    return made.store.view().claims[spec.uid].node


def other(made: Operation) -> Label:
    """The node that does not hold it."""
    return next(agent.node for agent in made.agents if agent.node != holder(made))


def test_a_pin_moves_the_image_at_once_and_for_good() -> None:
    """A pinned image goes to its node without waiting for it to settle, and the copy in Ceph says so."""
    made = serving()
    there = other(made)
    changed = placing.pin(made.store, made.ceph, NAME, there)
    images.await_serving(made.store, NAME, made.patience(), by=there)
    assert (changed.warning, made.ceph.copies[changed.spec.image_id].pin) == ("", there)
    assert look(made.store).image(NAME).pin == str(there)
    assert placing.pin(made.store, made.ceph, NAME, there).spec == changed.spec
    assert made.store.view().moves == {}
    assert placing.unpin(made.store, made.ceph, NAME).spec.pin is None


def test_a_pin_to_a_node_that_cannot_serve_is_a_warning() -> None:
    """The pin stands, others serve the image, and it is said why; a node nobody knows is refused."""
    made = serving()
    there = other(made)
    made.etcd.revoke_lease(next(agent.lease for agent in made.agents if agent.node == there))
    changed = placing.pin(made.store, made.ceph, NAME, there)
    assert changed.warning == f"{there} is not live: others serve the image meanwhile"
    assert (changed.spec.pin, made.store.view().moves) == (there, {})
    with pytest.raises(NotFound, match="there is no node gw9; known are: gw1, gw2"):
        placing.pin(made.store, made.ceph, NAME, Label("gw9"))


def test_keep_away() -> None:
    """The holder lets go of an image that it is kept away from; not from every node, and not from its pin."""
    made = serving()
    here, there = holder(made), other(made)
    with pytest.raises(Refused, match="kept away from every node there is"):
        placing.keep_away(made.store, made.ceph, NAME, (here, there))
    changed = placing.keep_away(made.store, made.ceph, NAME, (here,))
    placing.await_away(made.store, changed.spec, made.patience())
    images.await_serving(made.store, NAME, made.patience(), by=there)
    assert look(made.store).image(NAME).keep_away == (str(here),)
    with pytest.raises(
        Refused, match=f"is kept away from node {here}; see `rbdgate image keep-away rbd/disk1 --clear`"
    ):
        placing.pin(made.store, made.ceph, NAME, here)
    assert placing.keep_away(made.store, made.ceph, NAME, ()).spec.keep_away == ()
    placing.pin(made.store, made.ceph, NAME, here)
    with pytest.raises(Refused, match=f"is pinned to node {here}"):
        placing.keep_away(made.store, made.ceph, NAME, (here,))
    with pytest.raises(NotFound, match="gw9"):
        placing.keep_away(made.store, made.ceph, NAME, (Label("gw9"),))


def test_stop_and_start() -> None:
    """A stopped image is held nowhere until it is started; the wait says who still holds it."""
    made = serving()
    here = next(agent for agent in made.agents if agent.node == holder(made))
    here.stuck = True
    changed = placing.stop(made.store, made.ceph, NAME)
    with pytest.raises(NotReached, match=f"{here.node} has not let image rbd/disk1 go yet"):
        placing.await_released(made.store, changed.spec, made.patience(3))
    here.stuck = False
    placing.await_released(made.store, changed.spec, made.patience())
    made.settle()
    status = look(made.store).image(NAME)
    assert (status.state, status.holder, status.reason) == (ImageState.STOPPED, None, "run `image start` to serve it")
    placing.start(made.store, made.ceph, NAME)
    images.await_serving(made.store, NAME, made.patience())


def test_an_image_that_is_being_deleted_is_left_alone() -> None:
    """Nothing is asked any more of an image on its way out."""
    made = serving()
    change(made.store, NAME, lambda spec: replace(spec, deleting=True))
    for act in (placing.unpin, placing.stop, placing.start):
        with pytest.raises(Refused, match="is being deleted"):
            act(made.store, made.ceph, NAME)
    with pytest.raises(Refused, match="is being deleted"):
        resizing.grow(made.store, made.ceph, NAME, 2 * GIB)
    assert made.ceph.images[NAME].size == GIB


def grown(made: Operation, size: int = 2 * GIB) -> Changed:
    """The image, grown."""
    return resizing.grow(made.store, made.ceph, NAME, size)


def test_growing_is_seen_when_the_holder_has_it() -> None:
    """Ceph, spec and copy have the new size, and it counts as reached when the holder's kernel has it."""
    made = serving()
    for agent in made.agents:
        agent.stuck = True
    made.settle()
    changed = grown(made)
    assert made.ceph.images[NAME].size == changed.spec.size == 2 * GIB
    assert made.ceph.copies[changed.spec.image_id].size == 2 * GIB
    with pytest.raises(NotReached, match="does not serve image rbd/disk1 with this change yet"):
        await_applied(made.store, changed, made.patience(3))
    for agent in made.agents:
        agent.stuck = False
    await_applied(made.store, changed, made.patience())


def test_growing_that_was_cut_short_is_finished_by_the_next_run() -> None:
    """Ceph first: dying before the spec was written leaves a larger image, and the same command goes on from there."""
    made = serving()
    made.ceph.fail["grow_image"] = StorageUnavailable("no monitor answers")
    with pytest.raises(StorageUnavailable):
        grown(made)
    assert made.store.image(NAME)[0].size == GIB
    del made.ceph.fail["grow_image"]
    made.ceph.images[NAME].size = 2 * GIB  # what the run that died had done
    assert grown(made).spec.size == 2 * GIB
    assert grown(made).spec.size == 2 * GIB


def test_two_operators_who_grow_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was overtaken between Ceph and the spec does not write the smaller size into it."""
    made = serving()
    grow_image = made.ceph.grow_image

    def overtaken(spec: ImageSpec, size: int) -> None:
        monkeypatch.undo()
        grow_image(spec, size)
        grown(made, 4 * GIB)

    monkeypatch.setattr(made.ceph, "grow_image", overtaken)
    with pytest.raises(Refused, match="it is not made smaller"):
        grown(made, 2 * GIB)
    assert made.store.image(NAME)[0].size == made.ceph.images[NAME].size == 4 * GIB


def test_shrinking_is_refused() -> None:
    """Neither below the spec's size nor below what Ceph has, and not to a size the disk's blocks do not divide."""
    made = serving()
    with pytest.raises(Refused, match="it is not made smaller"):
        grown(made, GIB - 512)
    made.ceph.images[NAME].size = 4 * GIB
    with pytest.raises(Refused, match="bytes in Ceph"):
        grown(made, 2 * GIB)
    made.ceph.images[NAME].size = GIB

    def large_blocks(spec: ImageSpec) -> ImageSpec:
        return replace(spec, attributes=replace(spec.attributes, block_size=4096))

    change(made.store, NAME, large_blocks)
    with pytest.raises(BadInput, match="not a positive multiple of 4096 bytes"):
        grown(made, GIB + 512)
    assert (made.ceph.images[NAME].size, made.store.image(NAME)[0].size) == (GIB, GIB)


def test_rebalancing_moves_a_few_at_a_time() -> None:
    """A node that came later gets its share, never more than a few images under way, and the dry run told so."""
    made = serving(12, agents=1)
    made.add_agents(1)
    planned = balancing.moves(made.store)
    assert {(move.source, move.target) for move in planned} == {(Label("gw1"), Label("gw2"))}
    assert made.store.view().moves == {}
    under_way = []
    patience = made.patience()
    patience = replace(patience, progress=lambda _: under_way.append(len(made.store.view().moves)))
    assert len(balancing.rebalance(made.store, patience)) == len(planned) == 6
    claims = [claim.node for claim in made.store.view().claims.values()]
    assert (claims.count(Label("gw1")), claims.count(Label("gw2"))) == (6, 6)
    assert max(under_way) == MOVES_AT_ONCE
    assert balancing.rebalance(made.store, made.patience()) == ()


def test_rebalancing_that_runs_out_of_time_says_what_is_left() -> None:
    """Nodes that let nothing go leave the moves asked for, and no more than those."""
    made = serving(12, agents=1)
    made.add_agents(1)
    made.agents[0].stuck = True
    with pytest.raises(NotReached, match=r"2 more images to move, 4 on their way: rbd/disk"):
        balancing.rebalance(made.store, made.patience(3))
    assert len(made.store.view().moves) == MOVES_AT_ONCE
