"""An OSD that stands still for half a minute: its own pool waits, the other pool's images are not disturbed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab_product.conftest import remember_stalls, written
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

OTHER = "rbd2/other-pool"
STOPPED = 30.0  # seconds
UNDISTURBED = 3.0  # seconds: longer than the nodes' worst stall at rest on a busy machine, far below `STOPPED`


@pytest.fixture
def other(scene: Scene, disk: Disk) -> Iterator[Disk]:
    """A disk in the other pool, on the other OSD, for the length of a test."""
    scene.create(OTHER)
    try:
        yield scene.log_in(OTHER)
    finally:
        scene.log_out(OTHER)
        scene.rbdgate("image", "delete", OTHER)


@pytest.mark.full
def test_the_other_pools_images_are_undisturbed(
    scene: Scene, disk: Disk, other: Disk, write: Writing, request: pytest.FixtureRequest
) -> None:
    """With one OSD stopped for 30 s nobody takes over or resigns, and the writer of the other pool goes on."""
    with written(scene, other, request) as undisturbed:
        claims, before = scene.claims(), scene.revision()
        for writing in (write, undisturbed):
            writing.mark("stopped")
        scene.ceph.osd(0).stop()
        for_seconds(STOPPED)
        assert scene.claims() == claims
        for writing in (write, undisturbed):
            writing.mark("continued")
        scene.ceph.osd(0).cont()
        for writing in (write, undisturbed):
            writing.wait_acknowledged()
        until("both paths of both", lambda: scene.paths_up(disk.image) == scene.paths_up(OTHER) == 2, within=60)
        for writing in (write, undisturbed):
            writing.stop()
            verdict = writing.verify()
            assert verdict["clean"], verdict
        assert scene.claims() == claims
        assert scene.claimed_since(before) == []
        undisturbed.record(Interruption.OTHER_OSD_STOPPED, "stopped")
        write.record(Interruption.OSD_STOPPED, "stopped")
        remember_stalls(undisturbed, request)
        assert undisturbed.stall("stopped").seconds < UNDISTURBED
