"""`rbdgate initiator`: who may log in to an image."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gateway.actions import initiators
from gateway.actions.ceph import Ceph
from gateway.actions.changing import Changed, await_applied
from gateway.cli.parsers import MINUTE, Commands, image_argument, leaf, typed
from gateway.cli.session import Answer, Session
from gateway.model import ImageName, Iqn
from gateway.store.cluster import ClusterStore


def add(commands: Commands) -> None:
    """The group's commands."""
    allow = leaf(commands, "allow", _allow, "let an initiator log in", waits=MINUTE)
    deny = leaf(commands, "deny", _deny, "let it log in no more, end its sessions", waits=MINUTE)
    for command in (allow, deny):
        image_argument(command)
        command.add_argument("iqn", type=typed(Iqn), metavar="IQN", help="the initiator's name")
    image_argument(leaf(commands, "list", _list, "who may log in"))


def _allow(session: Session, arguments: argparse.Namespace) -> Answer:
    return _changed(session, arguments, initiators.allow)


def _deny(session: Session, arguments: argparse.Namespace) -> Answer:
    return _changed(session, arguments, initiators.deny)


def _list(session: Session, arguments: argparse.Namespace) -> Answer:
    allowed = [str(iqn) for iqn in initiators.listed(session.store, arguments.image)]
    return Answer("\n".join(allowed), allowed)


def _changed(
    session: Session,
    arguments: argparse.Namespace,
    act: Callable[[ClusterStore, Ceph, ImageName, Any], Changed],
) -> Answer:
    changed = act(session.store, session.ceph, arguments.image, arguments.iqn)
    if changed.warning:
        session.warn(changed.warning)
    if arguments.wait:
        await_applied(session.store, changed, session.patience)
    allowed = [str(iqn) for iqn in changed.spec.initiators]
    text = f"image {arguments.image} may be used by: " + (", ".join(allowed) or "nobody")
    return Answer(text, {"image": str(arguments.image), "initiators": allowed})
