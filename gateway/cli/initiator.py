"""`rbdgate initiator`: who may log in to an image, by name and by group."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.actions import initiators
from gateway.actions.ceph import Ceph
from gateway.actions.changing import Changed, await_applied
from gateway.cli import chap, initiator_group, output
from gateway.cli.completing import Kind
from gateway.cli.initiator_group import clearing_of
from gateway.cli.parsers import (
    MINUTE,
    Commands,
    clearing_arguments,
    clears_for_a_reason,
    completed,
    image_argument,
    leaf,
    sentence,
    subcommands,
    typed,
)
from gateway.cli.session import Answer, Session
from gateway.model import ImageName, Iqn, Label
from gateway.store.cluster import ClusterStore


def add(commands: Commands) -> None:
    """The group's commands."""
    allow = leaf(commands, "allow", _allow, "let an initiator or a group log in", waits=MINUTE, check=_one)
    deny = leaf(commands, "deny", _deny, "let it log in no more, end its sessions", waits=MINUTE, check=_one)
    for command in (allow, deny):
        image_argument(command)
        command.add_argument("iqn", type=typed(Iqn), nargs="?", metavar="IQN", help="the initiator's name")
        group = command.add_argument("--group", type=typed(Label), metavar="NAME", help="a group of initiators")
        completed(group, Kind.GROUP)
    clearing_arguments(deny)
    image_argument(leaf(commands, "list", _list, "who may log in, and how"))
    for word, module, purpose in (
        ("group", initiator_group, "groups of initiators"),
        ("chap", chap, "what an initiator proves itself with"),
    ):
        inner = commands.add_parser(word, help=purpose, description=sentence(purpose))
        module.add(subcommands(inner))


def _one(chosen: argparse.Namespace) -> str | None:
    if (chosen.iqn is None) == (chosen.group is None):
        return "name either an IQN or a --group"
    return clears_for_a_reason(chosen)


def _allow(session: Session, arguments: argparse.Namespace) -> Answer:
    if arguments.group is not None:
        return _changed(session, arguments, initiators.allow_group, arguments.group)
    return _changed(session, arguments, initiators.allow, arguments.iqn)


def _deny(session: Session, arguments: argparse.Namespace) -> Answer:
    clearing = clearing_of(session, arguments)
    if arguments.group is not None:
        return _changed(session, arguments, partial(initiators.deny_group, clearing=clearing), arguments.group)
    return _changed(session, arguments, partial(initiators.deny, clearing=clearing), arguments.iqn)


def _list(session: Session, arguments: argparse.Namespace) -> Answer:
    allowed = initiators.listed(session.store, arguments.image)
    document = [{"iqn": str(a.iqn), "group": str(a.group) if a.group else None, "chap": a.chap} for a in allowed]
    rows = [(str(a.iqn), str(a.group or "-"), a.chap) for a in allowed]
    return Answer(output.table(("INITIATOR", "BY GROUP", "CHAP"), rows), document)


def _changed(
    session: Session,
    arguments: argparse.Namespace,
    act: Callable[[ClusterStore, Ceph, ImageName, Any], Changed],
    whom: Iqn | Label,
) -> Answer:
    changed = act(session.store, session.ceph, arguments.image, whom)
    if changed.warning:
        session.warn(changed.warning)
    if arguments.wait:
        await_applied(session.store, changed, session.patience)
    allowed = [str(iqn) for iqn in changed.spec.initiators]
    groups = [str(name) for name in changed.spec.groups]
    words = ", ".join([*allowed, *(f"group {name}" for name in groups)])
    text = f"image {arguments.image} may be used by: " + (words or "nobody")
    return Answer(text, {"image": str(arguments.image), "initiators": allowed, "groups": groups})
