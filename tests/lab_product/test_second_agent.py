"""A second agent under a node's name: on the same machine, and on another one. The first one is undisturbed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab_product.bounds import PAST_A_LEASE
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

SETTINGS = "/etc/rbdgate/rbdgate.toml"


def test_a_second_agent_on_a_node_refuses(scene: Scene, disk: Disk, write: Writing) -> None:
    """The second agent ends at once and says why; the first one's sessions, claims and process stay."""
    holder, claims, sessions = scene.holder(disk.image), scene.claims(), scene.sessions()
    target_side, pid = scene.target_sessions(holder), scene.agent_pid(holder)
    write.mark("second")
    for command, kind in (("run", "agent"), ("guard", "guard-process")):
        done = scene.lab.exec(holder, "timeout", "20", "rbdgate-agent", command, timeout=40, check=False)
        assert done.returncode == 1, done.stderr
        assert f"an rbdgate {kind} runs on this node already" in done.stderr
    write.wait_acknowledged()
    write.stop()
    assert scene.agent_pid(holder) == pid
    assert scene.claims() == claims
    assert scene.sessions() == sessions
    assert scene.target_sessions(holder) == target_side
    verdict = write.verify()
    assert verdict["clean"], verdict


@pytest.fixture
def impostor(scene: Scene, disk: Disk, write: Writing) -> Iterator[str]:
    """A node that holds nothing, and that has its own name back before the cluster is asked for its health."""
    node = scene.others(scene.holder(disk.image))[0]
    settings = scene.run(node, "cat", SETTINGS)
    yield node
    scene.put(node, SETTINGS, settings.encode())
    scene.run(node, "systemctl", "restart", "rbdgate-agent.service", within=120)


@pytest.mark.full
def test_a_second_machine_of_the_same_name_waits(scene: Scene, disk: Disk, impostor: str, write: Writing) -> None:
    """A machine set up with the name of a live gateway serves nothing and says why; the live one goes on."""
    holder, sessions = scene.holder(disk.image), scene.sessions()
    scene.front = next(node for node in scene.others(holder) if node != impostor)
    target_side = scene.target_sessions(holder)
    before = {claim for claim in scene.claims() if claim.node == holder}
    write.mark("second")
    text = scene.run(impostor, "cat", SETTINGS)
    named = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("node"))
    scene.put(impostor, SETTINGS, f'node = "{holder}"\n{named}'.encode())
    # A machine that was just switched on has no lease from before in /run.
    scene.shell(
        impostor, "systemctl stop rbdgate-agent; rm /run/rbdgate/tenure; systemctl start rbdgate-agent", within=120
    )
    until(
        "the second one says why it waits", lambda: "a second machine has the same" in said(scene, impostor), within=30
    )
    for_seconds(PAST_A_LEASE)
    write.wait_acknowledged()
    write.stop()
    assert before <= scene.claims()
    assert scene.sessions() == sessions
    assert scene.target_sessions(holder) == target_side
    verdict = write.verify()
    assert verdict["clean"], verdict


def said(scene: Scene, node: str) -> str:
    """What the agents of this boot of the node wrote."""
    return scene.run(node, "journalctl", "--unit=rbdgate-agent", "--output=cat")
