"""Whole agents and an image whose recorded reservations nobody understands: what status says, and the way out of it."""

from __future__ import annotations

import pytest

from gateway.actions.looking import look
from gateway.report import ImageState
from gateway.reservations.pr_info import EMPTY, decode
from tests.simulation.schedule import world_of


@pytest.mark.parametrize(
    "text", [b"junk", b"0x00000002" + EMPTY[10:], EMPTY.replace(b"0x00000000\n\0", b"0x00000003\n\0")]
)
def test_a_damaged_table_fails_its_image_until_it_is_cleared(text: bytes) -> None:
    """Whoever holds the image says the reason and the command in one sentence; after it the image is served."""
    world = world_of("world seed=1 nodes=2 images=2 locks=1 news=1")
    damaged, whole = world.specs
    image = world.rados.image_of(damaged.image_id)
    image.pr_info = text
    try:
        world.do("run 20")
        status = look(world.store)
        found = status.image(damaged.name)
        assert found.state is ImageState.FAILED
        assert found.reason.startswith(f"image {damaged.name} is not exported: pr_info ")
        assert f"`rbdgate reservation clear {damaged.name} --reason TEXT`" in found.reason
        assert status.image(whole.name).state is ImageState.SERVING
        world.do("clear disk1")
        world.do("run 40")
        assert look(world.store).image(damaged.name).state is ImageState.SERVING
        assert image.pr_info is not None
        assert decode(image.pr_info).registrations == ()
    finally:
        world.end()
