"""`rbdgate initiator group`: initiators that are allowed together, at any number of images."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.actions import initiators
from gateway.actions.credentials import await_access
from gateway.actions.denying import Clearing
from gateway.cli import output
from gateway.cli.completing import Kind
from gateway.cli.parsers import MINUTE, Commands, clearing_arguments, clears_for_a_reason, completed, leaf, typed
from gateway.cli.recording import operator
from gateway.cli.session import Answer, Session
from gateway.model import Iqn, Label


def add(commands: Commands) -> None:
    """The group's commands."""
    create = leaf(commands, "create", _create, "make a group")
    delete = leaf(commands, "delete", _delete, "forget a group that no image names")
    enter = leaf(commands, "add", _add, "add initiators, at all images that name the group", waits=MINUTE)
    purpose = "take initiators out, and end their sessions"
    remove = leaf(commands, "remove", _remove, purpose, waits=MINUTE, check=clears_for_a_reason)
    clearing_arguments(remove)
    leaf(commands, "list", _list, "the groups")
    show = leaf(commands, "show", _show, "one group's members and images")
    for command in (create, delete, enter, remove, show):
        name = command.add_argument("name", type=typed(Label), metavar="NAME", help="the group's name")
        if command is not create:
            completed(name, Kind.GROUP)
    for command, count in ((create, "*"), (enter, "+"), (remove, "+")):
        command.add_argument("iqns", type=typed(Iqn), nargs=count, metavar="IQN", help="initiators")


def _create(session: Session, arguments: argparse.Namespace) -> Answer:
    return _answer(initiators.create_group(session.store, arguments.name, tuple(arguments.iqns)))


def _delete(session: Session, arguments: argparse.Namespace) -> Answer:
    initiators.delete_group(session.store, arguments.name)
    return Answer(f"group {arguments.name} is gone", {"name": str(arguments.name), "deleted": True})


def _add(session: Session, arguments: argparse.Namespace) -> Answer:
    return _applied(session, arguments, initiators.add_members(session.store, arguments.name, tuple(arguments.iqns)))


def _remove(session: Session, arguments: argparse.Namespace) -> Answer:
    members, clearing = tuple(arguments.iqns), clearing_of(session, arguments)
    changed = initiators.remove_members(session.store, session.ceph, arguments.name, members, clearing)
    if changed.warning:
        session.warn(changed.warning)
    return _applied(session, arguments, changed)


def clearing_of(session: Session, arguments: argparse.Namespace) -> Clearing | None:
    """The operator's word that registrations are to go, if it was given."""
    return Clearing(operator(str(session.node)), arguments.reason) if arguments.clear_registration else None


def _list(session: Session, _: argparse.Namespace) -> Answer:
    found = initiators.groups(session.store)
    rows = [(str(g.name), str(len(g.members)), ", ".join(map(str, g.images)) or "-") for g in found]
    return Answer(output.table(("GROUP", "MEMBERS", "IMAGES"), rows), [_document(each) for each in found])


def _show(session: Session, arguments: argparse.Namespace) -> Answer:
    return _answer(initiators.group(session.store, arguments.name))


def _applied(session: Session, arguments: argparse.Namespace, changed: initiators.Group) -> Answer:
    if arguments.wait:
        await_access(session.store, changed.revision, lambda _, spec: changed.name in spec.groups, session.patience)
    return _answer(changed)


def _answer(group: initiators.Group) -> Answer:
    members = "\n".join(f"  {iqn}" for iqn in group.members) or "  nobody"
    images = ", ".join(map(str, group.images)) or "no image"
    return Answer(f"group {group.name}, named by {images}:\n{members}", _document(group))


def _document(group: initiators.Group) -> dict[str, Any]:
    return {
        "name": str(group.name),
        "members": [str(iqn) for iqn in group.members],
        "images": [str(name) for name in group.images],
    }
