"""`rbdgate cluster discovery-auth`: what an initiator has to prove itself with to be told of targets."""

from __future__ import annotations

import argparse

from gateway.actions import credentials
from gateway.cli.asking import add_credentials, ask_credentials, check_credentials
from gateway.cli.chap import sealed_document, sealed_text
from gateway.cli.parsers import MINUTE, Commands, leaf, sentence, subcommands
from gateway.cli.session import Answer, Session

_PURPOSE = "what discovery asks for, the same on every gateway"


def add(commands: Commands) -> None:
    """The group's commands."""
    inner = subcommands(commands.add_parser("discovery-auth", help=_PURPOSE, description=sentence(_PURPOSE)))
    put = leaf(inner, "set", _set, "set or change it", waits=MINUTE, check=check_credentials)
    add_credentials(put)
    leaf(inner, "clear", _clear, "let discovery ask for nothing", waits=MINUTE)
    leaf(inner, "show", _show, "the user names, never the secrets")


def _set(session: Session, arguments: argparse.Namespace) -> Answer:
    vault = session.vault()
    found = ask_credentials(arguments, session.warn)
    _await(session, arguments, credentials.set_discovery(session.store, vault, found))
    return _show(session, arguments)


def _clear(session: Session, arguments: argparse.Namespace) -> Answer:
    _await(session, arguments, credentials.clear_discovery(session.store))
    return Answer("discovery asks for no credentials", {"discovery": None})


def _show(session: Session, _: argparse.Namespace) -> Answer:
    found = credentials.of_discovery(session.store)
    return Answer(f"whoever discovers proves itself {sealed_text(found)}", {"discovery": sealed_document(found)})


def _await(session: Session, arguments: argparse.Namespace, revision: int) -> None:
    if arguments.wait:
        credentials.await_discovery(session.store, revision, session.patience)
