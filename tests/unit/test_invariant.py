"""The judgement of the rule that no two nodes serve one image, as values."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from gateway.timers import BLOCKLIST_EXPIRY
from tests.lab_product.invariant import fence_times, spans, violations

OLD = ["iqn.x", 1, "rbdgate.0123456789abcdef.10", "10.0.0.1:0/1"]
NEW = ["iqn.x", 1, "rbdgate.0123456789abcdef.20", "10.0.0.2:0/2"]


def sampled(*samples: tuple[float, str, list[list[object]]]) -> list[str]:
    """Lines as a gateway's sampler writes them."""
    return [json.dumps({"time": time, "boot": boot, "exports": exports}) for time, boot, exports in samples]


OLDER = spans("gw1", sampled((0, "a", [OLD]), (20, "a", [OLD])))
NEWER = spans("gw2", sampled((10, "b", [NEW]), (12, "b", [NEW])))


def test_two_unfenced_nodes_are_reported() -> None:
    """An overlap without a fence is a violation, and so is a fence that came too late."""
    assert len(violations(OLDER + NEWER, {}, slack=0.5)) == 1
    assert len(violations(OLDER + NEWER, {"10.0.0.1:0/1": 15.0}, slack=0.5)) == 1


def test_two_unfenced_nodes_are_reported_however_short_the_period_of_the_samples() -> None:
    """Samples in a row make one span: an overlap of many short looks counts as a whole."""
    looks = [n * 0.5 for n in range(100)]
    older = spans("gw1", sampled(*((time, "a", [OLD]) for time in looks)))
    newer = spans("gw2", sampled(*((time + 0.1, "b", [NEW]) for time in looks[50:])))
    assert [(span.began, span.ended) for span in older] == [(0.0, 49.5)]
    assert len(violations(older + newer, {}, slack=1.0)) == 1
    assert violations(older + newer, {"10.0.0.1:0/1": 25.0}, slack=1.0) == []


def test_a_fence_in_time_excuses_the_older_node() -> None:
    """A paused node that is fenced before the next one exports breaks nothing."""
    assert violations(OLDER + NEWER, {"10.0.0.1:0/1": 9.0}, slack=0.5) == []


def test_only_an_entry_of_a_year_is_a_fence() -> None:
    """An entry was made a year before its end; one that ends in an hour is none of a gateway's and excuses nothing."""
    now = 1_800_000_000.0

    def ends(seconds: float) -> str:
        return datetime.fromtimestamp(now + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f%z")

    blocklist = {"ours": ends(BLOCKLIST_EXPIRY - 60), "somebody's": ends(3600)}
    assert fence_times(blocklist, now=now) == {"ours": now - 60}


def test_fencing_the_newer_node_excuses_nothing() -> None:
    """The fence has to be against the older holder."""
    assert len(violations(OLDER + NEWER, {"10.0.0.2:0/2": 1.0}, slack=0.5)) == 1


def test_a_power_cut_ends_what_a_node_had() -> None:
    """Samples of two boots are no span: the node was off in between."""
    rebooted = spans("gw1", sampled((0, "a", [OLD]), (20, "c", [OLD])))
    assert violations(rebooted + NEWER, {}, slack=0.5) == []


def test_one_after_the_other_is_in_order() -> None:
    """A node that has stopped before the next one starts is no violation, nor is a damaged line."""
    lines = [*sampled((0, "a", [OLD]), (9, "a", [OLD]), (9.5, "a", [])), '{"time": 9.7, "bo']
    assert violations(spans("gw1", lines) + NEWER, {}, slack=0.5) == []
