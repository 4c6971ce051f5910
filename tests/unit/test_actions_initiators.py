"""Who may log in: the list is changed once, seen applied, and copied."""

from __future__ import annotations

import pytest

from gateway.actions import images, initiators
from gateway.actions.changing import await_applied
from gateway.actions.images import Wish
from gateway.actions.waiting import NotReached
from gateway.errors import NotFound, Refused, StorageUnavailable
from gateway.model import ImageName, Iqn
from tests.fakes.operation import Operation, operation

NAME = ImageName.parse("rbd/disk1")
INITIATOR = Iqn("iqn.1993-08.org.debian:01:abc")


def served() -> Operation:
    """A cluster that serves one image."""
    made = operation()
    images.create(made.store, made.ceph, NAME, 1 << 30, Wish(), random=made.random)
    made.settle()
    return made


def test_allow_and_deny() -> None:
    """An initiator is allowed once, listed, copied with the image, and denied once."""
    made = served()
    changed = initiators.allow(made.store, made.ceph, NAME, INITIATOR)
    assert initiators.allow(made.store, made.ceph, NAME, INITIATOR) == changed
    assert [each.iqn for each in initiators.listed(made.store, NAME)] == [INITIATOR]
    assert made.ceph.copies[changed.spec.image_id].initiators == (INITIATOR,)
    assert initiators.deny(made.store, made.ceph, NAME, INITIATOR).spec.initiators == ()
    with pytest.raises(NotFound, match="is not allowed at image rbd/disk1; allowed are: nobody"):
        initiators.deny(made.store, made.ceph, NAME, INITIATOR)


def test_waiting_for_the_kernel() -> None:
    """A change counts as reached when the holder's kernel was seen with it, not before."""
    made = served()
    changed = initiators.allow(made.store, made.ceph, NAME, INITIATOR)
    for agent in made.agents:
        agent.stuck = True
    with pytest.raises(NotReached, match="does not serve image rbd/disk1 with this change"):
        await_applied(made.store, changed, made.patience(3))
    for agent in made.agents:
        agent.stuck = False
    await_applied(made.store, changed, made.patience())


def test_nobody_serves_it() -> None:
    """The list of an image nobody serves needs no waiting."""
    made = operation(agents=0)
    images.create(made.store, made.ceph, NAME, 1 << 30, Wish(), random=made.random)
    changed = initiators.allow(made.store, made.ceph, NAME, INITIATOR)
    await_applied(made.store, changed, made.patience(0))


def test_refusals() -> None:
    """An unknown image, the target's own name and an image on its way out are refused."""
    made = served()
    spec, _ = made.store.image(NAME)
    with pytest.raises(NotFound, match="no image rbd/none"):
        initiators.allow(made.store, made.ceph, ImageName.parse("rbd/none"), INITIATOR)
    with pytest.raises(Refused, match="the target's own name"):
        initiators.allow(made.store, made.ceph, NAME, spec.identity.iqn)
    made.ceph.images[NAME].open_at = "10.0.0.77:0/1"
    with pytest.raises(Refused):
        images.delete(made.store, made.ceph, NAME, made.patience(), keep=False)
    with pytest.raises(Refused, match="being deleted"):
        initiators.allow(made.store, made.ceph, NAME, INITIATOR)


def test_without_ceph() -> None:
    """When the copy cannot be written the change stands and the warning says so."""
    made = served()
    made.ceph.fail["write_copy"] = StorageUnavailable("Ceph did not answer")
    changed = initiators.allow(made.store, made.ceph, NAME, INITIATOR)
    assert "not in the copy kept with the image: Ceph did not answer" in changed.warning
    assert [each.iqn for each in initiators.listed(made.store, NAME)] == [INITIATOR]
