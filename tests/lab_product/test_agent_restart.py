"""The agent comes and goes; the kernel goes on serving, and the guard watches."""

from __future__ import annotations

import pytest

from tests.lab_product.bounds import PAST_A_LEASE, WITH_SESSION
from tests.lab_product.interruptions import Interruption
from tests.lab_product.scene import NEXT, Disk, Scene
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing

CONNECTION_ERRORS = ("conn error", "connection error", "detected conn error", "session recovery timed out")

# A drop-in, because a unit in /etc cannot be masked from /run.
DIE_FOR_GOOD = (
    "mkdir -p /run/systemd/system/rbdgate-agent.service.d && cd /run/systemd/system/rbdgate-agent.service.d"
    " && printf '[Service]\\nRestart=no\\n' > test.conf && systemctl daemon-reload"
    " && systemctl kill --signal=KILL rbdgate-agent.service"
)


def errors_in(lines: list[str]) -> list[str]:
    """What the initiator's kernel says about broken connections."""
    return [line for line in lines if any(word in line.lower() for word in CONNECTION_ERRORS)]


def assert_untouched(scene: Scene, write: Writing, sessions: str, log_lines: int, kind: Interruption) -> None:
    """No session was renewed, no connection error logged, nothing lost, and no stall beyond twice the normal one."""
    normal = write.stall("normal", "event").seconds
    for_seconds(PAST_A_LEASE)  # a lease that was not taken up would have run out by now
    write.wait_acknowledged()
    history = write.stop()
    assert scene.sessions() == sessions
    assert errors_in(scene.kernel_log("ini1", log_lines)) == []
    assert write.record(kind, "event") <= max(2 * normal, WITH_SESSION), history.marks
    verdict = write.verify()
    assert verdict["clean"], verdict


def test_killing_the_agent_touches_no_session(scene: Scene, disk: Disk, write: Writing) -> None:
    """After `kill -9` of the holder's agent its successor goes on with lease and claim, and no initiator notices."""
    holder = scene.holder(disk.image)
    target_side = scene.target_sessions(holder)
    sessions, lines = scene.sessions(), len(scene.kernel_log("ini1"))
    write.mark("normal")
    for_seconds(PAST_A_LEASE)
    write.mark("event")
    scene.kill_agent(holder)
    scene.wait_serving(disk.image, by=holder)
    assert scene.target_sessions(holder) == target_side
    assert_untouched(scene, write, sessions, lines, Interruption.AGENT_KILLED)


@pytest.mark.full
def test_an_upgrade_touches_no_session(scene: Scene, disk: Disk, write: Writing) -> None:
    """A wheel of another version takes over from the running one without an initiator noticing."""
    holder = scene.holder(disk.image)
    wheel = scene.lab.wheel(NEXT)
    target_side = scene.target_sessions(holder)
    sessions, lines = scene.sessions(), len(scene.kernel_log("ini1"))
    write.mark("normal")
    for_seconds(PAST_A_LEASE)
    write.mark("event")
    scene.upgrade(holder, wheel)
    until(f"{holder} runs {NEXT}", lambda: scene.rbdgate("node", "show", holder)["version"] == NEXT, within=60)
    scene.wait_serving(disk.image, by=holder)
    assert scene.target_sessions(holder) == target_side
    assert_untouched(scene, write, sessions, lines, Interruption.AGENT_UPGRADED)


@pytest.mark.full
def test_the_guard_withdraws_for_a_stopped_agent(scene: Scene, disk: Disk, write: Writing) -> None:
    """An agent stopped past its tenure is withdrawn for by the guard alone, and another gateway serves."""
    holder = scene.holder(disk.image)
    scene.front = next(node for node in scene.gateways if node != holder)
    write.mark("event")
    scene.run(holder, "systemctl", "kill", "--signal=STOP", "--kill-who=main", "rbdgate-agent.service")
    until("the guard has withdrawn", lambda: scene.is_withdrawn(holder, disk.iqn), within=30)
    state = scene.run(holder, "ps", "-o", "stat=", "-p", scene.agent_pid(holder)).strip()
    assert state.startswith("T"), f"the agent was not stopped any more: {state}"
    until("another gateway holds it", lambda: scene.image(disk.image)["holder"] not in (None, holder), within=60)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    write.record(Interruption.AGENT_HUNG, "event")
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
    scene.run(holder, "systemctl", "kill", "--signal=CONT", "--kill-who=main", "rbdgate-agent.service")
    until(f"{holder} is live again", lambda: scene.rbdgate("node", "show", holder)["live"], within=90)


def test_the_guard_withdraws_for_a_dead_agent(scene: Scene, disk: Disk, write: Writing) -> None:
    """An agent that died and does not come back is withdrawn for by the guard when the tenure is over."""
    holder = scene.holder(disk.image)
    scene.front = next(node for node in scene.gateways if node != holder)
    write.mark("event")
    scene.shell(holder, DIE_FOR_GOOD)
    until("the guard has withdrawn", lambda: scene.is_withdrawn(holder, disk.iqn), within=30)
    assert scene.agent_pid(holder) == "0"
    until("another gateway holds it", lambda: scene.image(disk.image)["holder"] not in (None, holder), within=60)
    scene.wait_serving(disk.image)
    write.wait_acknowledged()
    write.record(Interruption.AGENT_DEAD, "event")
    write.stop()
    verdict = write.verify()
    assert verdict["clean"], verdict
