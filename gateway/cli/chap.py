"""`rbdgate initiator chap`: what an initiator proves itself with, wherever it logs in."""

from __future__ import annotations

import argparse

from gateway.actions import credentials
from gateway.cli.asking import add_credentials, ask_credentials, check_credentials
from gateway.cli.parsers import MINUTE, Commands, leaf, typed
from gateway.cli.session import Answer, Session
from gateway.credentials import SealedCredentials
from gateway.model import Iqn

_SET = """Has an initiator prove itself with a secret (CHAP), and with --mutual-user the target to it, at every image
that it may use. Sessions that are there stay; each new login needs the new secret. Secrets are read from files, or
asked for."""


def add(commands: Commands) -> None:
    """The group's commands."""
    put = leaf(
        commands, "set", _set, "set or change its secrets", waits=MINUTE, description=_SET, check=check_credentials
    )
    clear = leaf(commands, "clear", _clear, "let it log in without", waits=MINUTE)
    show = leaf(commands, "show", _show, "the user names, never the secrets")
    for command in (put, clear, show):
        command.add_argument("iqn", type=typed(Iqn), metavar="IQN", help="the initiator's name")
    add_credentials(put)


def _set(session: Session, arguments: argparse.Namespace) -> Answer:
    vault = session.vault()
    found = ask_credentials(arguments, session.warn)
    revision = credentials.set_initiator(session.store, vault, arguments.iqn, found)
    _await(session, arguments, revision)
    return _show(session, arguments)


def _clear(session: Session, arguments: argparse.Namespace) -> Answer:
    _await(session, arguments, credentials.clear_initiator(session.store, arguments.iqn))
    return Answer(f"{arguments.iqn} logs in without CHAP", {"iqn": str(arguments.iqn), "chap": None})


def _show(session: Session, arguments: argparse.Namespace) -> Answer:
    found = credentials.of_initiator(session.store, arguments.iqn)
    document = {"iqn": str(arguments.iqn), "chap": sealed_document(found)}
    return Answer(f"{arguments.iqn} proves itself {sealed_text(found)}", document)


def _await(session: Session, arguments: argparse.Namespace, revision: int) -> None:
    if arguments.wait:
        iqn = arguments.iqn
        credentials.await_access(
            session.store, revision, lambda view, spec: iqn in view.initiators_of(spec), session.patience
        )


def sealed_text(found: SealedCredentials) -> str:
    """What everybody may know of credentials, in words."""
    mutual = f", and the target as {found.mutual_user} (mutual)" if found.mutual else ""
    return f"as {found.user}{mutual}; sealed with key {found.key_id}"


def sealed_document(found: SealedCredentials) -> dict[str, str | None]:
    """The same for scripts."""
    return {"user": found.user, "mutual_user": found.mutual_user or None, "key_id": found.key_id}
