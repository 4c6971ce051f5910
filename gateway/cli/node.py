"""`rbdgate node`: the gateways, and what is asked of them."""

from __future__ import annotations

import argparse

from gateway.actions import nodes
from gateway.actions.looking import look
from gateway.cli import output
from gateway.cli.parsers import Commands, leaf, node_argument, typed
from gateway.cli.session import Answer, Session
from gateway.cli.values import parse_count

_DRAIN = """Has a node give its images to others, a few at a time, and take none; what no other node can take stays.
Waits until the node holds none; with status 3 it says what is left and why. The drain stands meanwhile."""

_MAINTENANCE = """Has a node give all its images away, also those that no other node can take. Refused, naming them, if
images could then be served nowhere; with --force those are served nowhere until another node can take them."""

_REMOVE = """Forgets a node that is not live and will not come back. Its clients of Ceph that may still have an image
open are fenced first, and the fences stay. A machine whose agent runs joins again by itself: stop it first."""


def add(commands: Commands) -> None:
    """The group's commands."""
    leaf(commands, "list", _list, "every node that ever joined")
    node_argument(leaf(commands, "show", _show, "one node"))
    drain = leaf(commands, "drain", _drain, "move a node's images to others", waits=300, description=_DRAIN)
    purpose = "have a node hold nothing"
    maintenance = leaf(commands, "maintenance", _maintain, purpose, waits=300, description=_MAINTENANCE)
    maintenance.add_argument("--force", action="store_true", help="even if images are then served nowhere")
    for command in (drain, maintenance):
        node_argument(command)
        command.add_argument("--reason", default="", metavar="TEXT", help="why; shown with the node's state")
    node_argument(leaf(commands, "resume", _resume, "have a node take images again"))
    weight = leaf(commands, "weight", _weigh, "set a node's share of the images")
    node_argument(weight)
    weight.add_argument("weight", type=typed(parse_count), metavar="N", help="1 to 1000; 100 is the usual")
    remove = leaf(commands, "remove", _remove, "forget a node that is dead", description=_REMOVE)
    node_argument(remove)
    remove.add_argument("--force", action="store_true", help="even if Ceph confirms no fence; its records stay then")


def _list(session: Session, _: argparse.Namespace) -> Answer:
    found = look(session.store).nodes
    return Answer(output.node_table(found), [node.as_dict() for node in found])


def _show(session: Session, arguments: argparse.Namespace) -> Answer:
    node = look(session.store).node(arguments.node)
    return Answer(output.node_text(node), node.as_dict())


def _drain(session: Session, arguments: argparse.Namespace) -> Answer:
    nodes.drain(session.store, arguments.node, arguments.reason)
    return _emptied(session, arguments)


def _maintain(session: Session, arguments: argparse.Namespace) -> Answer:
    nodes.maintain(session.store, arguments.node, arguments.reason, force=arguments.force)
    return _emptied(session, arguments)


def _resume(session: Session, arguments: argparse.Namespace) -> Answer:
    nodes.resume(session.store, arguments.node)
    return _show(session, arguments)


def _weigh(session: Session, arguments: argparse.Namespace) -> Answer:
    nodes.weigh(session.store, arguments.node, arguments.weight)
    return _show(session, arguments)


def _remove(session: Session, arguments: argparse.Namespace) -> Answer:
    removed = nodes.remove(session.store, session.ceph, arguments.node, session.node, force=arguments.force)
    for warning in removed.warnings:
        session.warn(warning)
    fenced = f"; fenced for that, for good: {removed.fenced} of its clients" if removed.fenced else ""
    return Answer(
        f"node {removed.node} is forgotten{fenced}",
        {"node": str(removed.node), "fenced": removed.fenced, "warnings": list(removed.warnings)},
    )


def _emptied(session: Session, arguments: argparse.Namespace) -> Answer:
    if arguments.wait:
        nodes.await_empty(session.store, arguments.node, session.patience)
    return _show(session, arguments)
