"""What a node would do, told without doing it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest

from agent.clock import boottime
from agent.guard_watch import GuardWatch
from gateway.access import Opened
from gateway.actions.planning import NodePlan, guarded_now, plan_here
from gateway.cli import main as program
from gateway.cli import plan as command
from gateway.cli.output import ProgressLine
from gateway.cli.session import Session
from gateway.model import Label
from gateway.runtime import RuntimeDirectory
from gateway.steps import Step
from gateway.timers import GUARD_STALE
from tests.fakes.operation import operation
from tests.unit.test_plan import Node, spec_of, world


def plan_of(node: Node, *, guarded: bool = True) -> NodePlan:
    """What the node would do now."""
    return plan_here(node.store.state, node.kernel.state, node.name, Opened(), guarded=guarded)


def test_the_plan_is_the_agents_and_nothing_is_done() -> None:
    """A node that is to serve an image tells so, step by step with reasons; at rest there is nothing to tell."""
    store, _, (node,) = world(nodes=1)
    node.turn()  # the anchor
    node.speak()
    before = store.state, node.kernel.state
    found = plan_of(node)
    assert [(step.subject, step.step) for step in found.steps] == [(str(spec_of(1).name), "Claim")]
    assert "node" in found.steps[0].words
    assert (store.state, node.kernel.state) == before
    node.turn()
    words = {step.step: step.words for step in plan_of(node).steps}
    assert words["OpenPath"].endswith("(path 2, 10.2.0.101)")
    node.settle()
    assert plan_of(node).steps == ()
    assert {step.step for step in plan_of(node, guarded=False).steps} == {"ClosePath"}


def test_a_node_that_is_no_member_would_withdraw() -> None:
    """Without a lease the plan is towards nothing, and says so."""
    store, _, (node,) = world(nodes=1)
    node.settle()
    store.expire(node.name)
    found = plan_of(node)
    assert found.sentence == "node gw1 is no member now: its lease has run out, or its agent never joined"
    assert [step.step for step in found.steps[:3]] == ["Cut", "RemoveAddresses", "Teardown"]
    assert found.steps[0].words.endswith("(10.1.0.101, 10.2.0.101)")


def test_every_step_has_words() -> None:
    """Whatever step there will be is told by the first sentence of what it says of itself."""
    assert all((step.__doc__ or "").strip() for step in get_args(Step))


def test_the_guards_sign_is_read_as_it_is_written(tmp_path: Path) -> None:
    """The agent's own room writes it; here it is fresh, stale, damaged or not there, as the agent judges it."""
    runtime = RuntimeDirectory(tmp_path)
    agents = GuardWatch(runtime.guard_sign, boottime)
    assert guarded_now(tmp_path) == agents.is_there() is False
    runtime.write_guard_sign(boottime())
    assert guarded_now(tmp_path)
    assert agents.is_there()
    assert not agents.in_doubt
    runtime.write_guard_sign(boottime() - GUARD_STALE - 1)
    assert not guarded_now(tmp_path)
    assert agents.is_there()
    assert agents.in_doubt, "the agent gives it a moment before it believes that"
    (tmp_path / "guard").write_text("?")
    assert not guarded_now(tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`rbdgate plan` prints the sentence and the steps, and refuses whoever may not read the kernel."""
    made = operation()
    _, _, (node,) = world(nodes=1)
    settings = tmp_path / "rbdgate.toml"
    settings.write_text(f'[etcd]\nendpoints = ["127.0.0.1:1"]\n[agent]\nruntime_directory = "{tmp_path}"\n')

    @contextmanager
    def opened(_: argparse.Namespace, __: ProgressLine) -> Iterator[Session]:
        yield Session(made.store, made.ceph, made.patience(), Label("gw1"), print)

    monkeypatch.setattr(command, "look_at_kernel", lambda *_: node.kernel.state)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert program.run(["plan", "--settings", str(settings)], opened) == 0
    out = capsys.readouterr().out
    assert out.startswith("node gw1 is a member under lease 1001, with no guard\n\nIMAGE")
    assert "MapAnchor" in out
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert program.run(["plan", "--settings", str(settings)], opened) == 1
    assert "run it as root" in capsys.readouterr().err
