"""`rbdgate status`: the whole cluster, once or again whenever it changes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import datetime

from gateway.actions.looking import Watchful, watch_over
from gateway.cli import output
from gateway.cli.parsers import Parser, furnish
from gateway.cli.session import Answer, Session
from gateway.cli.times import told
from gateway.errors import RbdgateError
from gateway.trouble import Gravity, Trouble

MOST = 20
"""How many troubles of one gravity are told to people one by one."""

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
    found = watch_over(session.store)
    return Answer(status_text(found, datetime.now().astimezone()), found.as_dict())


def status_text(found: Watchful, now: datetime) -> str:
    """First what is wrong, then all there is; times in the zone of `now`."""
    tables = output.node_table(found.status.nodes), output.image_table(found.status.images)
    return "\n\n".join([_troubles_text(found.troubles, now), *tables])


def _troubles_text(troubles: Sequence[Trouble], now: datetime) -> str:
    """Each with what is wrong and since when, then the reason, then what to do, in lines of their own."""
    if not troubles:
        return "Nothing is wrong."
    width = max(len(trouble.gravity.value) for trouble in troubles)
    lines = [f"{len(troubles)} thing{'s' if len(troubles) != 1 else ''} to look at, the worst first:"]
    for trouble in _not_too_many(troubles):
        since = f"since {told(trouble.since, now)}" if trouble.since else "since when is not on record"
        lines.append(f"{trouble.gravity.value.upper().ljust(width)}  {trouble.about}: {trouble.what}, {since}")
        indent = " " * (width + 2)
        lines += [f"{indent}{trouble.reason}"] if trouble.reason else []
        lines += [f"{indent}-> {trouble.next}"]
    for gravity in Gravity:
        more = sum(trouble.gravity is gravity for trouble in troubles) - MOST
        if more > 0:
            lines.append(
                f"{gravity.value.upper().ljust(width)}  and {more} more: see below, or `rbdgate status --json`"
            )
    return "\n".join(lines)


def _not_too_many(troubles: Sequence[Trouble]) -> list[Trouble]:
    """The first MOST of each gravity."""
    return [trouble for gravity in Gravity for trouble in [t for t in troubles if t.gravity is gravity][:MOST]]


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
