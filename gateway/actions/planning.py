"""What this node's agent would do now, without doing it: the same reads, the same pure plan, no act.

What an agent only knows by having watched (how long an image has been unclaimed, which nodes have settled, steps still
under way) is not known here: what waits for that is not in this plan, and what is under way may be in it once more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from gateway.access import Opened
from gateway.model import Address, ClusterView, Label
from gateway.model import Path as ImagePath
from gateway.observed import Kernel
from gateway.plan import Me, Situation, anchor_of, plan, plan_nothing
from gateway.runtime import RuntimeDirectory
from gateway.steps import Plan, Step
from gateway.timers import guard_lives


@dataclass(frozen=True)
class PlannedStep:
    """One step: `subject` is the image's name, or empty for what concerns the whole node."""

    subject: str
    step: str
    words: str
    reason: str


@dataclass(frozen=True)
class NodePlan:
    """What the node would do; `sentence` says what that rests on."""

    sentence: str
    steps: tuple[PlannedStep, ...]


def plan_here(view: ClusterView, kernel: Kernel, node: Label, opened: Opened, *, guarded: bool) -> NodePlan:
    """The plan of this node, from etcd and from its kernel as they were read, credentials opened; pure."""
    live = view.live.get(node)
    if live is None:
        sentence = f"node {node} is no member now: its lease has run out, or its agent never joined"
        return NodePlan(sentence, _planned(view, plan_nothing(kernel)))
    anchor = anchor_of(kernel.mappings, view.settings.anchor_pool)
    rados = next((each for each in live.instances if anchor is None or each != anchor.instance), None)
    me = Me(node, live.lease, rados, guarded, boot_id=live.boot_id)
    decided = plan(Situation(view, kernel, me, opened=opened))
    guard = "" if guarded else ", with no guard"
    sentence = f"node {node} is a member under lease {live.lease:x}{guard}"
    return NodePlan(sentence, _planned(view, decided))


def guarded_now(runtime_directory: Path) -> bool:
    """Whether the guard gave a sign of life lately: a time of CLOCK_BOOTTIME."""
    sign = RuntimeDirectory(runtime_directory).guard_sign()
    return guard_lives(sign, time.clock_gettime(time.CLOCK_BOOTTIME))


def _planned(view: ClusterView, decided: Plan) -> tuple[PlannedStep, ...]:
    def rows() -> Iterator[PlannedStep]:
        for step in decided.first:
            yield _row("", step, "before all else")
        for key, steps in decided.images.items():
            spec = view.spec_of(key)
            for step in steps:
                yield _row(str(spec.name) if spec else key, step, decided.reasons.get(key, ""))
        for step in decided.last:
            yield _row("", step, "when nothing is under way")

    return tuple(rows())


def _row(subject: str, step: Step, reason: str) -> PlannedStep:
    purpose = (type(step).__doc__ or type(step).__name__).strip().partition("\n")[0].partition(":")[0].rstrip(".")
    details = "; ".join(_details(step))
    return PlannedStep(subject, type(step).__name__, f"{purpose} ({details})" if details else purpose, reason)


def _details(step: Step) -> Iterator[str]:
    """Whatever of a step names a thing that people know: addresses, paths, devices, nodes, reasons."""
    for field in fields(step):
        value = getattr(step, field.name)
        if isinstance(value, ImagePath):
            yield f"path {value.tag}, {value.address}"
        elif isinstance(value, frozenset) and value and all(isinstance(each, Address) for each in value):
            yield ", ".join(sorted(map(str, value)))
        elif field.name == "number":
            yield f"/dev/rbd{value}"
        elif field.name in ("to", "why", "reason"):
            yield str(value)
