"""`rbdgate plan`: what this node would do now, without doing it."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

from gateway.actions.planning import NodePlan, guarded_now, plan_here
from gateway.cli import output
from gateway.cli.parsers import Parser, furnish
from gateway.cli.session import Answer, Session
from gateway.errors import Refused
from gateway.model import ClusterView
from gateway.observed import Kernel
from gateway.runtime import RuntimeDirectory
from gateway.settings import Settings
from gateway.vault import open_all

_DESCRIPTION = """Reads etcd and this node's kernel as its agent does, and prints the steps that the agent would take
now, with the reasons. It takes none of them. As root, on a gateway. An empty plan is a node at rest."""


def add(parser: Parser) -> None:
    """The command, which is a group of its own."""
    parser.description = _DESCRIPTION
    furnish(parser, _plan, "what this node would do now")


def _plan(session: Session, arguments: argparse.Namespace) -> Answer:
    if os.geteuid() != 0:
        raise Refused("`rbdgate plan` reads this node's kernel (LIO, krbd, addresses): run it as root")
    settings = Settings.load(arguments.settings)
    view = session.store.view()
    guarded = guarded_now(settings.runtime_directory)
    opened = open_all(view, session.store.keys, session.vault)
    kernel = look_at_kernel(settings, view)
    return _answer(session, plan_here(view, kernel, session.node, opened, guarded=guarded))


def look_at_kernel(settings: Settings, view: ClusterView) -> Kernel:
    """This node's kernel at one look."""
    from gateway.kernel import NodeKernel  # noqa: PLC0415 - netlink and configfs, for those who may read them

    return NodeKernel(RuntimeDirectory(settings.runtime_directory), settings.timers).observe(view)


def _answer(session: Session, found: NodePlan) -> Answer:
    rows = [(step.subject or "(node)", step.step, step.words, step.reason) for step in found.steps]
    steps = output.table(("IMAGE", "STEP", "WHAT IT DOES", "REASON"), rows) if rows else "nothing to do: it is at rest"
    document = {"node": str(session.node), "sentence": found.sentence, "steps": [asdict(step) for step in found.steps]}
    return Answer(f"{found.sentence}\n\n{steps}", document)
