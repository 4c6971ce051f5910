"""The fence, on real OSDs and a real monitor, by a user with no more than `profile rbd`."""

from __future__ import annotations

import signal
import time

import pytest

from gateway.errors import Blocklisted, FenceUnconfirmed, Refused
from gateway.images.cluster import CephConnection
from gateway.images.fence import Touch, add_to_blocklist, blocklist, fence
from gateway.images.image import break_locks, describe_image
from gateway.model import Instance
from tests.contract.ceph_under_test import Ceph, NewImage

pytest_plugins = ("tests.contract.ceph_fixtures",)

YEAR = 365 * 24 * 3600.0
ROUNDS = 25


def read_object(connection: CephConnection, name: str) -> bytes:
    """The content of an object of the test's own."""
    with connection.pool("rbd") as ioctx:
        content: bytes = ioctx.read(name)
    return content


def test_no_write_lands_after_the_fence(ceph: Ceph, connection: CephConnection) -> None:
    """In many rounds, a victim that writes as fast as it can changes nothing from the fence's return on."""
    for number in range(ROUNDS):
        name = f"victims-object-{number}"
        victim = ceph.actor("write", name)
        assert victim.stdout is not None
        instance = Instance(victim.stdout.readline().strip())
        assert victim.stdout.readline().strip() == "under way"
        fence(connection, {instance}, (Touch("rbd", "", name),), expire=YEAR)
        at_return = read_object(connection, name)
        assert victim.communicate(timeout=30)[0].strip() == "refused"
        assert read_object(connection, name) == at_return


def test_an_entry_is_recorded_once_for_long(connection: CephConnection) -> None:
    """A fence's entry can be fenced again, for a shorter time too, and keeps its expiry; IPv6 is normalised."""
    victims = {Instance("10.9.9.9:0/77"), Instance("[fd00:0:0::1]:0/78")}
    with pytest.raises(FenceUnconfirmed, match="does not name"):
        fence(connection, victims, (), expire=YEAR)
    victims = {Instance("10.9.9.9:0/77"), Instance("[fd00::1]:0/78")}
    epoch = fence(connection, victims, (), expire=YEAR)
    before = blocklist(connection)
    assert victims <= before.keys()
    add_to_blocklist(connection, victims, expire=60)
    assert {victim: blocklist(connection)[victim] for victim in victims} == {v: before[v] for v in victims}
    assert fence(connection, victims, (), expire=YEAR) >= epoch


def test_a_fenced_client_is_told_and_fences_nobody(ceph: Ceph, connection: CephConnection, new_image: NewImage) -> None:
    """A client that was fenced hears so at its next act, and its own fence of others is refused before it begins."""
    name, header = new_image()
    touches = describe_image(connection, name).touches
    with ceph.connect() as fenced:
        fence(connection, {fenced.instance}, touches, expire=YEAR)
        with pytest.raises(Blocklisted):
            describe_image(fenced, name)
        stranger = Instance("10.9.9.9:0/1234")
        with pytest.raises(Blocklisted):
            fence(fenced, {stranger}, touches, expire=YEAR)
        assert stranger not in blocklist(connection)
    assert header.read().holder is None


def test_nobody_fences_itself(connection: CephConnection) -> None:
    """The fencing client's own instance among the victims is refused, and nothing is added."""
    before = blocklist(connection).keys()
    with pytest.raises(FenceUnconfirmed):
        fence(connection, {connection.instance, Instance("10.9.9.9:0/5")}, (), expire=YEAR)
    assert blocklist(connection).keys() == before


def test_the_user_can_add_one_address_and_remove_none(connection: CephConnection) -> None:
    """With `profile rbd` an entry is for one client only, and stays."""
    victim = Instance("10.9.9.9:0/99")
    fence(connection, {victim}, (), expire=YEAR)
    for arguments in ({"blocklistop": "rm", "addr": victim.text}, {"blocklistop": "add", "addr": "10.9.9.9"}):
        with pytest.raises(Refused):
            connection.command("osd blocklist", **arguments)
    assert victim in blocklist(connection)


def test_a_silent_monitor_confirms_nothing(ceph: Ceph, new_image: NewImage, connection: CephConnection) -> None:
    """While no monitor answers, a fence ends in time, unconfirmed."""
    name, _ = new_image()
    touches = describe_image(connection, name).touches
    with ceph.connect(op_timeout=1) as impatient:
        ceph.cluster.mon.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(FenceUnconfirmed):
                fence(impatient, {Instance("10.9.9.9:0/6")}, touches, expire=YEAR)
            assert time.monotonic() - began < 4
        finally:
            ceph.cluster.mon.signal(signal.SIGCONT)


def test_a_stopped_osd_confirms_nothing(ceph: Ceph, new_image: NewImage, connection: CephConnection) -> None:
    """While the image's OSD does not answer, a fence ends in time, unconfirmed; another pool's fence goes on."""
    name, _ = new_image()
    touches = describe_image(connection, name).touches
    with ceph.connect(op_timeout=1) as impatient:
        ceph.cluster.osd(0).stop()
        try:
            began = time.monotonic()
            with pytest.raises(FenceUnconfirmed):
                fence(impatient, {Instance("10.9.9.9:0/7")}, touches, expire=YEAR)
            fence(impatient, {Instance("10.9.9.9:0/8")}, (Touch("rbd2", "", "x"),), expire=YEAR)
            assert time.monotonic() - began < 5
        finally:
            ceph.cluster.osd(0).cont()


def test_only_a_fenced_owners_lock_is_broken(ceph: Ceph, connection: CephConnection, new_image: NewImage) -> None:
    """The image's lock is taken from an owner named as fenced, without another entry, and from nobody else."""
    name, header = new_image()
    with ceph.connect() as owner:
        import rbd  # noqa: PLC0415 - only this test speaks librbd directly, as the foreign owner

        with owner.pool("rbd") as ioctx, rbd.Image(ioctx, name.name) as image:
            image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
            break_locks(connection, name, ())
            assert describe_image(connection, name).lock_owners == {owner.instance}
            assert describe_image(connection, name).watchers == {owner.instance}
            break_locks(connection, name, (owner.instance,))
            assert not describe_image(connection, name).lock_owners
            assert owner.instance not in blocklist(connection)
    assert header.read().holder is None
