"""What held all the time while the other tests here broke things; `conftest.py` has it run last."""

from __future__ import annotations

import time

import pytest

from tests.lab_product.conftest import SAMPLES
from tests.lab_product.invariant import Span, fence_times, spans, violations
from tests.lab_product.scene import Scene

SLACK = 0.5  # seconds by which two nodes' clocks may differ; the host's clock drives them all


@pytest.mark.looks_back
def test_never_two_nodes_for_one_image(scene: Scene) -> None:
    """At no time had two gateways an enabled portal for one image, unless the older one's instance was fenced."""
    seen: list[Span] = []
    for node in scene.gateways:
        lines = scene.run(node, "cat", SAMPLES).splitlines()
        assert lines, f"{node} was not sampled"
        seen += spans(node, lines)
    assert any(span.export.token for span in seen), "no export was ever sampled"
    excused = dict.fromkeys(scene.unfenced_on_purpose, 0.0)
    fenced = fence_times(scene.blocklist(), now=time.time())
    assert violations(seen, fenced | excused, slack=SLACK) == []
