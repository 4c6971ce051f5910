"""The checker through a real iSCSI disk: what it must report there too."""

from __future__ import annotations

from tests.lab_product.scene import Disk, Scene
from tests.lab_product.writing import HOME, Writing


def test_a_block_changed_behind_its_back_is_reported(scene: Scene, disk: Disk, write: Writing) -> None:
    """A block of the disk that somebody else overwrote is foreign, and its acknowledged writes are lost."""
    write.stop()
    assert write.verify()["clean"]
    scene.shell("ini1", f"dd if=/dev/urandom of={disk.device} bs=4096 seek=7 count=1 oflag=direct conv=notrunc")
    verdict = write.verify()
    assert verdict["foreign_blocks"] == [7]
    assert verdict["lost_writes"] >= 1


def test_an_acknowledged_record_added_by_hand_is_reported(scene: Scene, disk: Disk, write: Writing) -> None:
    """A journal that claims a write that never was makes the judge report it as lost."""
    write.stop()
    scene.shell("ini1", f"echo 'a 0 9 99999999 1' >> {HOME}/{write.name}.journal")
    verdict = write.verify()
    assert (verdict["stale_blocks"], verdict["lost_writes"]) == ([9], 1)
