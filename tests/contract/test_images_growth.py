"""Growing images, on a real cluster."""

from __future__ import annotations

import pytest
import rados
import rbd

from gateway.errors import NotFound, Refused
from gateway.images.cluster import CephConnection
from gateway.images.growth import grow_image
from gateway.images.image import describe_image
from tests.contract.ceph_under_test import Ceph, NewImage

pytest_plugins = ("tests.contract.ceph_fixtures",)

MIB = 1 << 20


def test_an_image_grows_and_never_shrinks(connection: CephConnection, new_image: NewImage) -> None:
    """It has the new size, a second run changes nothing, a smaller size is refused, and so is another image's id."""
    name, header = new_image()
    grow_image(connection, name, header.image_id, 8 * MIB)
    grow_image(connection, name, header.image_id, 8 * MIB)
    with pytest.raises(Refused, match=f"has {8 * MIB} bytes in Ceph, more than {4 * MIB}; it is not made smaller"):
        grow_image(connection, name, header.image_id, 4 * MIB)
    with pytest.raises(NotFound, match="it was replaced"):
        grow_image(connection, name, "abc123", 16 * MIB)
    facts = describe_image(connection, name)
    assert (facts.size, facts.openers) == (8 * MIB, frozenset())


class Stale:
    """An image that told its size before somebody else changed it, and is asked for it again later."""

    opened = rbd.Image

    def __init__(self, ioctx: rados.Ioctx, name: str) -> None:
        self._image, self._told = self.opened(ioctx, name), False
        self.id, self.resize = self._image.id, self._image.resize

    def __enter__(self) -> Stale:
        return self

    def __exit__(self, *_: object) -> None:
        self._image.close()

    def size(self) -> int:
        """What it once was, then what it is."""
        earlier, self._told = not self._told, True
        return MIB if earlier else int(self._image.size())


def test_whoever_was_faster_is_not_undone(
    connection: CephConnection, new_image: NewImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that grew beyond the wished size between the look and the change keeps what it has."""
    name, header = new_image()
    grow_image(connection, name, header.image_id, 8 * MIB)
    monkeypatch.setattr(rbd, "Image", Stale)
    with pytest.raises(Refused, match="it is not made smaller"):
        grow_image(connection, name, header.image_id, 4 * MIB)
    monkeypatch.undo()
    assert describe_image(connection, name).size == 8 * MIB


def test_growing_under_a_writer(ceph: Ceph, connection: CephConnection, new_image: NewImage) -> None:
    """A client that writes, and so has the image's lock, goes on writing, and finds the new room."""
    name, header = new_image()
    with ceph.connect() as writer, writer.pool(name.pool) as ioctx, rbd.Image(ioctx, name.name) as opened:
        opened.write(b"before", 0)
        grow_image(connection, name, header.image_id, 8 * MIB)
        opened.write(b"after", 4 * MIB)
        assert (opened.size(), opened.read(4 * MIB, 5), opened.read(0, 6)) == (8 * MIB, b"after", b"before")
