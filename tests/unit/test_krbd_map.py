"""What the kernel's RBD driver is told, on a file that stands for its `add_single_major`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.errors import Inconsistent
from gateway.images import krbd
from gateway.images.cephx import CephKey, MonAddresses
from gateway.model import ImageName, Instance
from gateway.observed import ANCHOR, Mapping

CLIENT = krbd.KernelClient(MonAddresses(("10.0.0.1:6789",), ()), "rbdgate", CephKey(b"\1" * 28))
OPTIONS = krbd.client_options(3, osd_request_timeout=45, mount_timeout=10)
HELD = Mapping(0, "rbd", "", ANCHOR, "1", Instance("10.0.0.2:0/7"), OPTIONS, read_only=True, size=1 << 20)


@contextmanager
def lent(_key: CephKey, description: str) -> Iterator[str]:
    """The name of a key that no kernel keeps."""
    yield description


def test_an_image_is_mapped_on_the_anchors_options_and_not_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The anchor's client options word for word, a bound for the lock, and neither `exclusive` nor the secret."""
    monkeypatch.setattr(krbd, "lent_to_kernel", lent)
    monkeypatch.setattr(krbd.Krbd, "mappings", lambda _: (HELD,))
    told = tmp_path / "add_single_major"
    told.touch()
    with pytest.raises(Inconsistent, match="does not list it"):  # no driver stands behind the file
        krbd.Krbd(bus=tmp_path).map_image(ImageName("rbd", "disk", "team"), CLIENT, HELD)
    monitors, words, pool, name, snapshot = told.read_text().split(" ")
    assert (monitors, pool, name, snapshot) == ("10.0.0.1:6789", "rbd", "disk", "-")
    expected = {"name=rbdgate", "key=rbdgate.rbdgate", "lock_timeout=10", "_pool_ns=team", "rw"}
    assert set(words.split(",")) == expected | {f"{name}={value}" for name, value in OPTIONS.items()}
