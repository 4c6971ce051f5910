"""Connections and images, on a real cluster."""

from __future__ import annotations

import signal
import struct
import time
from pathlib import Path

import pytest
import rbd

from gateway.errors import AlreadyExists, BadInput, NotFound, RbdgateError, Refused, StorageUnavailable
from gateway.images.cephx import CephKey, read_keyring
from gateway.images.cluster import CephConnection
from gateway.images.header import ImageHeader
from gateway.images.image import (
    CREATE_FEATURES,
    adoption_obstacles,
    create_anchor,
    create_image,
    describe_image,
)
from gateway.images.trash import move_to_trash
from gateway.model import ImageName
from gateway.observed import ANCHOR
from tests.contract.ceph_under_test import Ceph, NewImage

pytest_plugins = ("tests.contract.ceph_fixtures",)


def make(connection: CephConnection, name: str, **options: object) -> ImageName:
    """An image made behind the library's back, with any features."""
    image = ImageName.parse(name)
    with connection.pool(image.pool, image.namespace) as ioctx:
        rbd.RBD().create(ioctx, image.name, **{"size": 1 << 20, "old_format": False, **options})
    return image


def test_create_sets_its_features(connection: CephConnection, new_image: NewImage) -> None:
    """A new image has layering and exclusive-lock and nothing else, lies in its pool and is open nowhere."""
    name, header = new_image()
    facts = describe_image(connection, name)
    assert facts.features == CREATE_FEATURES == 0b101
    assert (facts.image_id, facts.size, facts.data_pool) == (header.image_id, 1 << 20, "rbd")
    assert not facts.openers
    assert adoption_obstacles(facts, ()) == ()


@pytest.mark.parametrize(
    ("name", "size", "error"),
    [
        ("nope/x", 512, NotFound),
        ("rbd/nope/x", 512, NotFound),
        ("private/x", 512, Refused),
        ("rbd/x", 0, BadInput),
        ("rbd/x", 513, BadInput),
    ],
)
def test_create_refuses(connection: CephConnection, name: str, size: int, error: type[RbdgateError]) -> None:
    """An unknown pool or namespace, a pool without caps and a size that is no multiple of 512 are refused as such."""
    with pytest.raises(error):
        create_image(connection, ImageName.parse(name), size)


def test_create_never_replaces(connection: CephConnection, new_image: NewImage) -> None:
    """A name in use is refused and its image stays the same."""
    name, header = new_image()
    with pytest.raises(AlreadyExists):
        create_image(connection, name, 1 << 21)
    assert describe_image(connection, name).image_id == header.image_id


def test_the_anchor_is_made_once(connection: CephConnection) -> None:
    """Making the anchor again leaves it alone."""
    create_anchor(connection, "rbd2")
    first = describe_image(connection, ImageName(pool="rbd2", name=ANCHOR))
    create_anchor(connection, "rbd2")
    assert describe_image(connection, first.name) == first


def test_adopt_refuses_what_the_kernel_cannot_map(connection: CephConnection) -> None:
    """Journaling, an odd size and the old format are refused with the reason; what krbd maps is not."""
    journaling = make(connection, "rbd/journaling", features=CREATE_FEATURES | rbd.RBD_FEATURE_JOURNALING)
    odd = make(connection, "rbd/odd", size=1000)
    fine = make(connection, "rbd/fine", features=61, stripe_unit=65536, stripe_count=4, data_pool="rbd2")
    # librbd makes no image of format 1 any more: its header is written by hand (rbd_obj_header_ondisk, rbd_types.h).
    old = struct.pack(
        "<40s24s4s8sBBBBQQIIQ",
        *(b"<<< Rados Block Device Image >>>\n", b"rb.0.1.2", b"RBD", b"001.005"),
        *(22, 0, 0, 0, 1 << 20, 0, 0, 0, 0),
    )
    with connection.pool("rbd") as ioctx:
        ioctx.write_full("old.rbd", old)
    (reason,) = adoption_obstacles(describe_image(connection, journaling), ())
    assert "journaling" in reason
    (reason,) = adoption_obstacles(describe_image(connection, odd), ())
    assert "1000 bytes" in reason
    facts = describe_image(connection, fine)
    assert adoption_obstacles(facts, ()) == ()
    assert [touch.pool for touch in facts.touches] == ["rbd", "rbd2"]
    with pytest.raises(Refused, match="format 1"):
        describe_image(connection, ImageName.parse("rbd/old"))


def test_foreign_openers_are_named_and_block(ceph: Ceph, connection: CephConnection, new_image: NewImage) -> None:
    """A client that has the image open is named by its instance; it blocks adoption and the trash, and looking is
    not opening."""
    name, header = new_image()
    with ceph.connect() as stranger, stranger.pool("rbd") as ioctx, rbd.Image(ioctx, name.name) as image:
        image.write(b"x" * 512, 0)
        image.flush()
        facts = describe_image(connection, name)
        assert facts.watchers == facts.lock_owners == {stranger.instance}
        (reason,) = adoption_obstacles(facts, ())
        assert str(stranger.instance) in reason
        assert adoption_obstacles(facts, (stranger.instance,)) == ()
        with pytest.raises(Refused, match=str(stranger.instance)):
            move_to_trash(connection, name, header.image_id)
    with pytest.raises(Refused, match="another one"):
        move_to_trash(connection, name, "0123")
    move_to_trash(connection, name, header.image_id)
    with pytest.raises(NotFound):
        describe_image(connection, name)


def test_an_image_goes_to_the_trash_with_its_snapshots(connection: CephConnection, new_image: NewImage) -> None:
    """Nothing is destroyed: the image can be restored from the trash, snapshots and all."""
    name, header = new_image()
    with connection.pool("rbd") as ioctx:
        with rbd.Image(ioctx, name.name) as image:
            image.create_snap("monday")
        move_to_trash(connection, name, header.image_id)
        rbd.RBD().trash_restore(ioctx, header.image_id, name.name)
        with rbd.Image(ioctx, name.name, read_only=True) as image:
            assert [snapshot["name"] for snapshot in image.list_snaps()] == ["monday"]


def test_namespaces_are_separate(connection: CephConnection, ceph: Ceph) -> None:
    """The same name in a namespace is another image, with its own header."""
    with connection.pool("rbd") as ioctx:
        rbd.RBD().namespace_create(ioctx, "tenant")
    inner, outer = ImageName.parse("rbd/tenant/same"), ImageName.parse("rbd/same")
    assert create_image(connection, inner, 512) != create_image(connection, outer, 512)
    assert ImageHeader(connection, "rbd", "tenant", describe_image(connection, inner).image_id).read().version > 0


def test_a_stopped_osd_holds_up_its_own_pool_only(ceph: Ceph) -> None:
    """With one pool's OSD stopped, that pool's calls fail in time and the other pool's go on."""
    with ceph.connect(op_timeout=1) as impatient:
        create_anchor(impatient, "rbd2")
        ceph.cluster.osd(0).stop()
        try:
            began = time.monotonic()
            with pytest.raises(StorageUnavailable):
                describe_image(impatient, ImageName.parse("rbd/whatever"))
            assert describe_image(impatient, ImageName(pool="rbd2", name=ANCHOR)).size
            assert time.monotonic() - began < 3
        finally:
            ceph.cluster.osd(0).cont()


def test_a_silent_monitor_is_a_bounded_error(ceph: Ceph) -> None:
    """While no monitor answers, connecting, commands, unknown pools and the wait for the map all end in time."""
    with ceph.connect(op_timeout=1) as impatient:
        ceph.cluster.mon.signal(signal.SIGSTOP)
        try:
            for act in (
                lambda: ceph.connect(op_timeout=1),
                impatient.mon_addresses,
                impatient.await_newest_map,
                lambda: describe_image(impatient, ImageName.parse("nope/x")),
            ):
                began = time.monotonic()
                with pytest.raises(StorageUnavailable):
                    act()
                assert time.monotonic() - began < 3
        finally:
            ceph.cluster.mon.signal(signal.SIGCONT)


def test_bad_credentials_are_named(ceph: Ceph, tmp_path: Path) -> None:
    """A missing keyring, a keyring of somebody else and a wrong key are told apart, and no key is shown."""
    with pytest.raises(BadInput, match="cannot be read"):
        CephConnection(ceph.cluster.conf, "gw", tmp_path / "none", op_timeout=2)
    with pytest.raises(BadInput, match=r"no \[client\.other\]"):
        CephConnection(ceph.cluster.conf, "other", ceph.keyring, op_timeout=2)
    wrong = tmp_path / "wrong"
    key = ceph.cluster.admin_keyring.read_text().split("key = ")[1].split()[0]
    wrong.write_text(f"[client.gw]\n\tkey = {key}\n")
    with pytest.raises(Refused, match="check the key") as raised:
        CephConnection(ceph.cluster.conf, "gw", wrong, op_timeout=2)
    assert key not in str(raised.value)
    damaged = tmp_path / "damaged"
    damaged.write_text("[client.gw]\n\tkey = ???\n")
    with pytest.raises(BadInput, match="base64"):
        read_keyring(damaged, "client.gw")


def test_a_key_prints_as_stars(ceph: Ceph) -> None:
    """Neither the key nor what holds it shows the secret in its repr."""
    key = read_keyring(ceph.keyring, "client.gw")
    assert f"{key!r} {key}" == "CephKey(***) CephKey(***)"
    assert CephKey.parse(ceph.keyring.read_text().split("key = ")[1].split()[0]) == key
