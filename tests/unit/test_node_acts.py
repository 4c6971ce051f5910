"""The fakes of kernel and RADOS say what the real ones were seen to say (tests/lab/test_node_acts.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway.errors import Blocklisted
from gateway.model import ClusterSettings, ClusterView, DeviceAttributes, ImageSpec, Instance, Label
from gateway.observed import Interface, Kernel, Mapping
from gateway.storage import CephStorage
from tests.contract import node_acts
from tests.contract.node_acts_seen import SEEN
from tests.fakes.node import FakeKernel
from tests.fakes.rados import FakeConnection, FakeRados, on_fakes
from tests.unit.test_plan import NETWORKS, spec_of


class FakeBench:
    """A node on fakes."""

    def __init__(self) -> None:
        links = {n.name: Interface(f"eth{i}", i, up=True, addresses=frozenset()) for i, n in enumerate(NETWORKS)}
        self.rados = FakeRados()
        self.kernel = FakeKernel(self.rados, "gw1", links)
        self.storage = self._client("gw1", Instance("10.0.1.1:0/1"))
        self.other = self._client("gw2", Instance("10.0.1.2:0/1"))

    def _client(self, node: str, client: Instance) -> CephStorage:
        return CephStorage(FakeConnection(self.rados, client), Label(node))  # type: ignore[arg-type]

    def image(self, number: int) -> ImageSpec:
        """One of the planner's, without reservations: on the real node nobody catches their changes."""
        spec = replace(spec_of(number), attributes=DeviceAttributes(emulate_pr=0))
        if spec.name not in self.rados.images:
            self.rados.add_image(spec.name, spec.image_id, spec.size)
        return spec

    def look(self) -> Kernel:
        """The fake's state."""
        settings = ClusterSettings("fsid", NETWORKS, "rbd")
        view = ClusterView(1, settings, {}, {}, {}, {}, {}, {}, (), {}, {})
        return self.kernel.observe(view)

    def write(self, mapping: Mapping) -> str:
        """An operation on the data."""
        try:
            self.rados.operate(mapping.instance, self.rados.image_of(mapping.image_id).first)
        except Blocklisted:
            return "refused"
        return "done"

    def blocklisted(self) -> frozenset[Instance]:
        """The list."""
        return frozenset(self.rados.listed)


@pytest.fixture
def bench() -> Iterator[FakeBench]:
    """A fresh one."""
    with on_fakes():
        yield FakeBench()


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in node_acts.SCENARIOS])
def test_the_fakes_say_the_same(bench: FakeBench, name: str) -> None:
    """Each scenario on the fakes ends word for word as it did on a real kernel and a real Ceph."""
    said = getattr(node_acts, name)(bench)
    assert json.loads(json.dumps(said)) == SEEN[name]
