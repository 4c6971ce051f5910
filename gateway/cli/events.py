"""`rbdgate events`: what happened, to whom, by whose doing and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gateway.actions.history import History, history
from gateway.cli import output
from gateway.cli.completing import Kind
from gateway.cli.parsers import Parser, completed, furnish, typed
from gateway.cli.session import Answer, Session
from gateway.cli.story import story
from gateway.cli.times import age, local, moment
from gateway.cli.values import parse_count, parse_since
from gateway.errors import RbdgateError
from gateway.events import Event
from gateway.model import ImageName, Label

FOLLOW_EVERY = 1.0
"""Seconds between two looks of `events --follow`."""


def add(parser: Parser) -> None:
    """The command, which is a group of its own."""
    furnish(parser, _events, "what happened, by whose doing and why, the newest last", check=_named_once)
    about = parser.add_argument(
        "about", nargs="?", type=typed(_about), metavar="IMAGE|NODE", help="only what concerns this one"
    )
    completed(about, Kind.IMAGE, Kind.NODE)
    only = parser.add_mutually_exclusive_group()
    image = only.add_argument("--image", type=typed(ImageName.parse), metavar="IMAGE", help="the same, an image")
    completed(image, Kind.IMAGE)
    completed(only.add_argument("--node", type=typed(Label), metavar="NODE", help="the same, a node"), Kind.NODE)
    parser.add_argument(
        "--since", type=typed(parse_since), metavar="TIME", help="like 90s, 30m, 2h, 7d, or 2026-11-22T03:00"
    )
    parser.add_argument(
        "--limit", type=typed(parse_count), default=100, metavar="N", help="the newest N at most; default: 100"
    )
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until interrupted")


def _named_once(chosen: argparse.Namespace) -> str | None:
    twice = chosen.about is not None and (chosen.image is not None or chosen.node is not None)
    return "name the image or node once" if twice else None


def _about(text: str) -> ImageName | Label:
    """An image has a slash in its name, and a node has none."""
    return ImageName.parse(text) if "/" in text else Label(text)


def _events(session: Session, arguments: argparse.Namespace) -> Answer:
    now = datetime.now(UTC)
    since = now - arguments.since if isinstance(arguments.since, timedelta) else arguments.since
    about = arguments.about or arguments.image or arguments.node
    log = history(session.store, about, since)
    if log.damaged:
        session.warn(f"{log.damaged} entries of the log of events cannot be read")
    shown = log.events[-arguments.limit :]
    if arguments.follow:
        _follow(session, arguments, about, replace(log, events=shown))
    text = _told(about, shown, log, now.astimezone()) if shown else "no such event"
    return Answer(text, [event.as_dict() for event in shown])


def _told(about: ImageName | Label | None, shown: Sequence[Event], log: History, now: datetime) -> str:
    """An image's events as a story, any others as a table."""
    if isinstance(about, ImageName):
        return story(log.all, shown, now)
    rows = [_row(event, now) for event in shown]
    ages = [age(found, now) if (found := moment(event.time)) else "?" for event in shown]
    return output.table(
        ("TIME", "AGE", "WHO", "ABOUT", "WHAT"),
        [(row[0], ago, *row[1:]) for row, ago in zip(rows, ages, strict=True)],
    )


def _follow(session: Session, arguments: argparse.Namespace, about: ImageName | Label | None, found: History) -> None:
    """Print what was found and then each event as it comes, for ever; with `--json` one document a line."""
    told = ""
    while True:
        for event in found.events:
            line = "  ".join(_row(event, datetime.now(UTC).astimezone()))
            print(json.dumps(event.as_dict()) if arguments.json else line, flush=True)
        found = replace(found, events=())
        session.patience.sleep(FOLLOW_EVERY)
        try:
            if session.store.events().last_change() > found.revision:
                found = history(session.store, about, None, after=found.revision)
            told = ""
        except RbdgateError as error:
            if str(error) != told:
                session.warn(str(error))
            told = str(error)


def _row(event: Event, now: datetime) -> tuple[str, ...]:
    facts = [f"{event.seconds:.2f} s"] if event.seconds is not None else []
    facts += [event.trace] if event.trace else []
    what = event.text + (f" [{', '.join(facts)}]" if facts else "") + (f": {event.why}" if event.why else "")
    return (local(event.time, now), event.who or "?", event.image or event.node or "-", what)
