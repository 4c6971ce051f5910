"""`rbdgate node`: the gateways."""

from __future__ import annotations

import argparse

from gateway.actions.looking import look
from gateway.cli import output
from gateway.cli.parsers import Commands, leaf, node_argument
from gateway.cli.session import Answer, Session


def add(commands: Commands) -> None:
    """The group's commands."""
    leaf(commands, "list", _list, "every node that ever joined")
    node_argument(leaf(commands, "show", _show, "one node"))


def _list(session: Session, _: argparse.Namespace) -> Answer:
    found = look(session.store).nodes
    return Answer(output.node_table(found), [node.as_dict() for node in found])


def _show(session: Session, arguments: argparse.Namespace) -> Answer:
    node = look(session.store).node(arguments.node)
    return Answer(output.node_text(node), node.as_dict())
