"""Serving images again from the copies they carry, on fakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.actions import images, initiators
from gateway.actions.images import Wish
from gateway.actions.restoring import restore
from gateway.errors import AlreadyExists, NewerSchema, NotFound, Refused
from gateway.model import ImageName, ImageSpec, Iqn
from gateway.store.cluster import ClusterStore
from tests.fakes.etcd import FakeEtcd
from tests.fakes.operation import SETTINGS, Operation, operation

NAME = ImageName.parse("rbd/disk1")
GIB = 1 << 30


@pytest.fixture
def made() -> Operation:
    """A cluster with two agents."""
    return operation(agents=2)


def lost(made: Operation, *networks: str) -> ImageSpec:
    """An image with an initiator; then etcd is wiped, and initialised anew with all or only the named networks."""
    images.create(made.store, made.ceph, NAME, GIB, Wish(), random=made.random)
    initiators.allow(made.store, made.ceph, NAME, Iqn("iqn.1993-08.org.debian:01:abc"))
    spec, _ = made.store.image(NAME)
    made.etcd = FakeEtcd(lambda: made.now)
    made.store = ClusterStore(made.etcd, "/rbdgate/default/", clock=lambda: made.now)
    kept = tuple(network for network in SETTINGS.networks if not networks or str(network.name) in networks)
    made.store.initialise(replace(SETTINGS, networks=kept))
    return spec


def test_a_wiped_etcd_is_given_the_image_back(made: Operation) -> None:
    """The restored spec is the lost one, and what it makes unique is taken again."""
    spec = lost(made)
    assert restore(made.store, made.ceph, NAME) == spec
    assert made.store.image(NAME)[0] == spec
    with pytest.raises(AlreadyExists, match="served by this cluster already"):
        restore(made.store, made.ceph, NAME)


def test_a_renamed_and_grown_image_keeps_its_identity(made: Operation) -> None:
    """The name and the size are those the image has now, the rest is the copy's; the copy is written anew."""
    spec = lost(made)
    renamed = ImageName.parse("rbd/renamed")
    made.ceph.images[renamed] = made.ceph.images.pop(NAME)
    made.ceph.images[renamed].size = 2 * GIB
    restored = restore(made.store, made.ceph, renamed)
    assert restored == replace(spec, name=renamed, size=2 * GIB)
    assert made.ceph.copies[spec.image_id] == restored


def test_what_was_taken_meanwhile_is_not_taken_away(made: Operation) -> None:
    """An address that another image got after the wipe makes the restore fail with that image's name."""
    lost(made)
    other = ImageName.parse("rbd/other")
    images.create(made.store, made.ceph, other, GIB, Wish(), random=made.random)
    with pytest.raises(AlreadyExists, match="taken by image rbd/other"):
        restore(made.store, made.ceph, NAME)


@pytest.mark.parametrize(
    ("copy", "named"), [(None, "carries no copy"), ("{", "the copy of the spec in image rbd/disk1")]
)
def test_without_a_readable_copy_adopt_is_named(made: Operation, copy: str | None, named: str) -> None:
    """An image without a copy or with a damaged one is refused, and the message names the other way."""
    spec = lost(made)
    del made.ceph.copies[spec.image_id]
    if copy is not None:
        made.ceph.texts[spec.image_id] = copy
    with pytest.raises(Refused, match=named) as refused:
        restore(made.store, made.ceph, NAME)
    assert "`rbdgate image adopt rbd/disk1`" in str(refused.value)
    with pytest.raises(NotFound):
        made.store.image(NAME)


def test_a_newer_copy_is_left_alone(made: Operation) -> None:
    """A copy that a newer rbdgate wrote says so, and is not written over."""
    spec = lost(made)
    made.ceph.texts[spec.image_id] = '{"schema": 99}'
    with pytest.raises(NewerSchema, match="99"):
        restore(made.store, made.ceph, NAME)
    assert made.ceph.acts[-1] == "read_copy"


def test_a_clone_is_not_its_parent(made: Operation) -> None:
    """A copy that names another image's id was inherited; it is not served under the parent's identity."""
    spec = lost(made)
    made.ceph.images[NAME].image_id = "clone"
    made.ceph.copies["clone"] = spec
    with pytest.raises(Refused, match="inherited a copy"):
        restore(made.store, made.ceph, NAME)


def test_a_deleted_image_does_not_come_back(made: Operation) -> None:
    """An image whose deletion had begun stays what the operator wanted it to be."""
    spec = lost(made)
    made.ceph.copies[spec.image_id] = replace(spec, deleting=True)
    with pytest.raises(Refused, match="was being deleted"):
        restore(made.store, made.ceph, NAME)


def test_an_image_that_is_open_is_refused(made: Operation) -> None:
    """Whatever stands in an adoption's way stands in a restore's."""
    lost(made)
    made.ceph.images[NAME].obstacles = ("it is open at 10.0.0.9:0/1",)
    with pytest.raises(Refused, match="open at"):
        restore(made.store, made.ceph, NAME)


def test_a_network_the_new_cluster_does_not_have_is_named(made: Operation) -> None:
    """A path's network must be one of the cluster's, or nobody could serve it."""
    lost(made, "storage-1")
    with pytest.raises(Refused, match="in network storage-2, which this cluster does not have"):
        restore(made.store, made.ceph, NAME)
