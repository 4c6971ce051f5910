"""The commands that place, stop and grow images and act on nodes, on fakes: what they print and how they end."""

from __future__ import annotations

import pytest

from gateway.model import ImageName, Label
from gateway.placement import MOVES_AT_ONCE
from tests.fakes.operation import operation
from tests.unit.test_cli import Terminal


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Two gateways that serve two images."""
    terminal = Terminal(operation(), capsys)
    for number in (1, 2):
        assert terminal.run(f"image create rbd/disk{number} --size 1G") == 0
    return terminal


def test_a_day_of_maintenance(terminal: Terminal) -> None:
    """Drain, look, maintenance, resume and weight, in words and in JSON."""
    assert terminal.run("node drain gw1 --reason disks") == 0
    assert "state     drain: disks" in terminal.out
    node = terminal.json("node show gw1")
    assert (node["state"], node["why"], node["weight"], node["images"]) == ("drain", "disks", 100, [])
    assert terminal.run("node drain gw2 --timeout 2") == 3
    assert "no other node can take rbd/disk1, rbd/disk2: gw1 is drained (disks)" in terminal.error
    assert terminal.run("node maintenance gw2") == 1
    assert "no active node could serve rbd/disk1, rbd/disk2" in terminal.error
    assert terminal.json("node resume gw1")["state"] == "active"
    assert terminal.json("node maintenance gw2 --no-wait")["state"] == "maintenance"
    assert terminal.json("node maintenance gw2")["images"] == []
    assert terminal.json("node weight gw1 250")["weight"] == 250
    assert terminal.run("status") == 0
    assert "NODE  STATE        WEIGHT  LIVE" in terminal.out


def test_where_an_image_is(terminal: Terminal) -> None:
    """Pin, keep away and back again; a node that cannot serve the image is a warning, not a failure."""
    here = terminal.json("image show rbd/disk1")["holder"]
    there = "gw2" if here == "gw1" else "gw1"
    assert terminal.json(f"image pin rbd/disk1 {there}")["holder"] == there
    assert terminal.run("image show rbd/disk1") == 0
    assert f"pinned to  {there}" in terminal.out
    assert terminal.run(f"image keep-away rbd/disk1 {there}") == 1
    assert terminal.json("image unpin rbd/disk1")["pin"] is None
    kept = terminal.json(f"image keep-away rbd/disk1 {there}")
    assert (kept["holder"], kept["keep_away"]) == (here, [there])
    assert terminal.json("image keep-away rbd/disk1 --clear")["keep_away"] == []
    terminal.made.etcd.revoke_lease(next(a.lease for a in terminal.made.agents if a.node == Label(there)))
    assert terminal.run(f"image pin rbd/disk1 {there}") == 0
    assert f"{there} is not live: others serve the image meanwhile" in terminal.out  # where this test's warnings go


def test_stop_start_and_grow(terminal: Terminal) -> None:
    """A stopped image has no holder, a started one is served, a grown one shows its size."""
    assert terminal.json("image stop rbd/disk1")["state"] == "stopped"
    assert terminal.run("image move rbd/disk1") == 1
    assert terminal.json("image start rbd/disk1")["state"] == "serving"
    assert terminal.json("image resize rbd/disk1 --size 2G")["size"] == 2 << 30
    assert terminal.run("image resize rbd/disk1 --size 1G") == 1
    assert "it is not made smaller" in terminal.error
    assert terminal.made.ceph.images[ImageName("rbd", "disk1")].size == 2 << 30


def test_an_even_spread(terminal: Terminal) -> None:
    """The dry run tells, the run moves, and an even cluster says that it is one."""
    assert terminal.run("image rebalance") == 0
    assert terminal.out == "the images are spread evenly\n"
    terminal.made.add_agents(2)
    for number in range(3, 9):
        assert terminal.run(f"image create rbd/disk{number} --size 1G --paths 1 --no-wait") == 0
    for node in ("gw3", "gw4"):
        assert terminal.run(f"node drain {node} --no-wait") == 0
    terminal.made.settle()
    for node in ("gw3", "gw4"):
        assert terminal.run(f"node resume {node}") == 0
    planned = terminal.json("image rebalance --dry-run")
    assert planned
    assert set(planned[0]) == {"image", "from", "to", "reason"}
    assert terminal.made.store.view().moves == {}
    assert terminal.run("image rebalance --no-wait") in (0, 3)
    assert len(terminal.made.store.view().moves) == min(len(planned), MOVES_AT_ONCE)
    assert terminal.run("image rebalance") == 0
    assert terminal.json("image rebalance --dry-run") == []


def test_a_node_is_forgotten(terminal: Terminal) -> None:
    """Only a dead one, and it is said how many of its clients were fenced."""
    assert terminal.run("node remove gw1") == 1
    assert "node gw1 is live" in terminal.error
    dead = terminal.made.agents.pop(0)
    terminal.made.etcd.revoke_lease(dead.lease)
    found = terminal.json("node remove gw1")
    assert (found["node"], found["warnings"]) == ("gw1", [])
    assert found["fenced"] == len(set(terminal.made.ceph.fenced))
    assert [node["name"] for node in terminal.json("node list")] == ["gw2"]
    assert terminal.run("node remove gw1") == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("image resize rbd/disk1", "required: --size"),
        ("image resize rbd/disk1 --size 1000", "not a positive multiple of 512"),
        ("image keep-away rbd/disk1", "name the nodes, or --clear"),
        ("image keep-away rbd/disk1 gw1 --clear", "--clear names no node"),
        ("image pin rbd/disk1", "required: NODE"),
        ("image pin rbd/disk1 a/b", "is no name for a node"),
        ("node weight gw1 many", "no number from 1 on"),
        ("node drain", "required: NODE"),
        ("completion tcsh", "invalid choice: 'tcsh'"),
    ],
)
def test_wrong_usage(terminal: Terminal, line: str, reason: str) -> None:
    """What is malformed in itself ends with status 2 and changes nothing."""
    before = terminal.made.etcd.range("/").revision
    assert terminal.run(line) == 2
    assert reason in terminal.error.splitlines()[-1]
    assert terminal.made.etcd.range("/").revision == before


def test_a_weight_there_is_not(terminal: Terminal) -> None:
    """Weights end at 1000."""
    assert terminal.run("node weight gw1 1001") == 1
    assert "weight 1001: use 1 to 1000" in terminal.error


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_a_shell_sources(terminal: Terminal, shell: str) -> None:
    """Each shell gets a script that names the command; no cluster is asked."""
    terminal.made.etcd.down = True
    assert terminal.run(f"completion {shell}") == 0
    assert "rbdgate" in terminal.out
    assert "_ARGCOMPLETE" in terminal.out
