"""`rbdgate status`: the whole cluster, once or again whenever it changes."""

from __future__ import annotations

import argparse
import sys
import time

from gateway.actions.looking import look
from gateway.cli import output
from gateway.cli.parsers import Parser, furnish
from gateway.cli.session import Answer, Session
from gateway.errors import RbdgateError

WATCH_EVERY = 1.0
"""Seconds between two looks of `status --watch`."""


def add(parser: Parser) -> None:
    """The command, which is a group of its own."""
    furnish(parser, _status, "the whole cluster: images and nodes")
    parser.add_argument("--watch", action="store_true", help="print it again whenever it changes, until interrupted")


def _status(session: Session, arguments: argparse.Namespace) -> Answer:
    if arguments.watch:
        _watch(session, as_json=arguments.json)
    return _answer(session)


def _answer(session: Session) -> Answer:
    found = look(session.store)
    text = output.node_table(found.nodes) + "\n\n" + output.image_table(found.images)
    return Answer(text, found.as_dict())


def _watch(session: Session, *, as_json: bool) -> None:
    """Print the status whenever it has changed, for ever."""
    shown = ""
    while True:
        try:
            answer = _answer(session)
            text = output.as_json(answer.document) if as_json else answer.text
        except RbdgateError as error:
            text = f"rbdgate: {error}"
        if text != shown:
            clear = "\033[H\033[2J" if sys.stdout.isatty() else ""
            print(f"{clear}{text}\n", flush=True)
            shown = text
        time.sleep(WATCH_EVERY)
