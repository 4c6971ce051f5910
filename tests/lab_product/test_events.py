"""The log of events tells a night's failover in order, from any gateway, with who and why."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until
from tests.lab_product.writing import Writing

WRITTEN_WITHIN = 20.0  # seconds from a change to its event: a node's system calls are slow


def since(scene: Scene, number: int, *about: str) -> list[dict[str, Any]]:
    """The events after that number, about an image, a node or anything."""
    found: list[dict[str, Any]] = scene.rbdgate("events", *about, "--limit", "500")
    return [event for event in found if event["number"] > number]


def last_number(scene: Scene) -> int:
    """The number of the newest event."""
    return max((event["number"] for event in scene.rbdgate("events")), default=0)


def first(events: list[dict[str, Any]], text: str) -> dict[str, Any] | None:
    """The first event that begins so."""
    return next((event for event in events if event["text"].startswith(text)), None)


def one(events: list[dict[str, Any]], text: str) -> dict[str, Any]:
    """The one event that begins so; that there is no second is part of what is tried."""
    found = [event for event in events if event["text"].startswith(text)]
    assert len(found) == 1, (text, events)
    return found[0]


@pytest.mark.full
@pytest.mark.writer(lanes=1)
def test_a_power_cut_is_told_in_order(scene: Scene, disk: Disk, write: Writing) -> None:
    """The death, the claim, the fence of the dead node's clients and the service: in order, under one trace, once."""
    holder = scene.holder(disk.image)
    scene.front = next(node for node in scene.gateways if node != holder)
    before = last_number(scene)
    write.mark("crash")
    scene.lab.crash(holder)
    until("another gateway holds it", lambda: scene.image(disk.image)["holder"] not in (None, holder), within=60)
    taker = scene.wait_serving(disk.image)["holder"]
    until(
        "the service is told",
        lambda: first(since(scene, before, disk.image), "serves it, 2 of 2 paths up"),
        within=WRITTEN_WITHIN,
    )
    told = since(scene, before, disk.image)
    claimed, fenced, serves = (one(told, text) for text in ("claimed", "fenced the clients of", "serves it"))
    assert claimed["number"] < fenced["number"] < serves["number"]
    assert {claimed["who"], fenced["who"], serves["who"]} == {taker}
    assert claimed["trace"] == fenced["trace"] == serves["trace"]
    assert fenced["node"] == holder
    assert f"{taker}: " in claimed["why"]
    assert 0 < serves["seconds"] < 60
    assert one(since(scene, before, holder), "is not live any more")["node"] == holder
    scene.lab.boot(holder)
    until(f"{holder} tells that it joined", lambda: first(since(scene, before, holder), "joined"), within=90)
    write.wait_acknowledged()
    write.stop()
    assert write.verify()["clean"]


@pytest.mark.writer(lanes=1)
def test_a_move_is_told_with_its_operator(scene: Scene, disk: Disk, write: Writing) -> None:
    """The operator's command is the oldest, then the old holder's word and the new one's, each with the reason."""
    holder = scene.holder(disk.image)
    to = next(node for node in scene.gateways if node != holder)
    before = last_number(scene)
    write.mark("move")
    scene.rbdgate("image", "move", disk.image, "--to", to)
    scene.wait_serving(disk.image, by=to)
    until("the service is told", lambda: first(since(scene, before, disk.image), "serves it"), within=WRITTEN_WITHIN)
    # A command is written down when it was accepted: by then an agent can have told what it does about it.
    told = sorted(since(scene, before, disk.image), key=lambda event: str(event["time"]))
    shown = [(event["who"].partition("@")[0], event["text"].partition(" it")[0]) for event in told]
    assert shown == [
        ("operator root", f"rbdgate image move {disk.image} --to {to}"),
        (holder, "let go of"),
        (to, "claimed"),
        (to, "serves"),
    ]
    assert "operator" in told[1]["why"]
    assert "operator" in told[2]["why"]
    write.wait_acknowledged()
    write.stop()
    assert write.verify()["clean"]


@pytest.mark.full
def test_a_restart_of_the_agent_is_one_event(scene: Scene, disk: Disk) -> None:
    """An agent that takes up what its predecessor served tells that, and nothing else of the image."""
    holder, before = scene.holder(disk.image), last_number(scene)
    scene.run(holder, "systemctl", "restart", "rbdgate-agent")
    until("it is told", lambda: first(since(scene, before, holder), "took up its lease"), within=60)
    assert [event["text"] for event in since(scene, before, disk.image)] == []
