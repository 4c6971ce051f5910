"""An image's events as a story: each change of hands with who, why and the seconds of each phase. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from gateway.cli.times import local, moment, told
from gateway.events import Event, Kind

BEFORE = timedelta(seconds=30)
"""How long before a change of hands the end of a node belongs to it: more than a lease lasts."""

SKEW = timedelta(seconds=1)
"""How far clocks may be apart: what differs by no more stands in the order in which it was written."""

LATEST = timedelta(minutes=15)
"""More than an agent that cannot reach etcd keeps an event: a time so far off is a wrong clock's."""


def story(events: Sequence[Event], about: Iterable[Event], now: datetime) -> str:
    """The events `about` an image as they happened, by change of hands; `events` are all there are, also the nodes'.

    Both are in the order in which they were written. What happened between two changes stands where it happened.
    """
    parts = []
    chapters = list(_chapters(_as_happened(about)))
    newest = next((chapter for chapter in reversed(chapters) if any(map(_changes_hands, chapter))), None)
    for chapter in chapters:
        heading = _heading(chapter, now, "not served yet" if chapter is newest else "not served")
        with_nodes = _with_nodes(chapter, events) if heading else chapter
        width = max(len(event.who or "?") for event in with_nodes)
        lines = [_line(event, width, now) for event in with_nodes]
        parts.append("\n".join([*heading, *(f"  {line}" if heading else line for line in lines)]))
    return "\n\n".join(parts)


def _as_happened(written: Iterable[Event]) -> list[Event]:
    """The events with those in their place that their writer could not write at once, as while etcd was out of reach.

    A command is written when it is given, and its writer's clock may be any machine's.
    """
    placed: list[tuple[datetime | None, Event]] = []
    for event in written:
        at, place, late = moment(event.time), len(placed), timedelta(0)
        while at and place and (then := placed[place - 1][0]) and timedelta(0) < then - at <= LATEST:
            place, late = place - 1, max(late, then - at)
        if late <= SKEW or event.kind is Kind.OPERATOR:
            place = len(placed)
        placed.insert(place, (at, event))
    return [event for _, event in placed]


def _chapters(about: Sequence[Event]) -> Iterator[list[Event]]:
    """One for each change of hands, in the order of their first events.

    What bears no trace, as an operator's command, belongs to what follows soon after it, or stands by itself. A first
    claim and the change that ends it bear the same one: there the second begins when it changes hands again.
    """
    found: dict[str, list[Event]] = {}
    keys: dict[str, str] = {}
    waiting: list[Event] = []
    for number, event in enumerate(about):
        if not event.trace:
            waiting.append(event)
            continue
        caused = [each for each in waiting if _soon_after(each, event)]
        apart = [each for each in waiting if each not in caused]
        if apart:
            found[f"before {number}"] = apart
        key = keys.setdefault(event.trace, event.trace)
        if _changes_hands(event) and any(_is_service(each) for each in found.get(key, ())):
            key = keys[event.trace] = f"{event.trace} {number}"
        found.setdefault(key, []).extend([*caused, event])
        waiting = []
    yield from found.values()
    if waiting:
        yield waiting


def _changes_hands(event: Event) -> bool:
    return event.text == "claimed" or _lets_go(event)


def _lets_go(event: Event) -> bool:
    return event.text.startswith(("let go of it", "lost it"))


def _is_service(event: Event) -> bool:
    return event.text.startswith("serves it")


def _soon_after(wish: Event, event: Event) -> bool:
    asked, came = moment(wish.time), moment(event.time)
    return asked is not None and came is not None and came - asked <= BEFORE


def _heading(chapter: Sequence[Event], now: datetime, unserved: str) -> list[str]:
    """Who had it, who has it, how long that took, or what is said if it was not served; empty if nobody got it."""
    gone = next((event for event in chapter if _lets_go(event)), None)
    dead = next((event.node for event in chapter if event.kind is Kind.FENCE and event.node), "")
    claimed = next((event for event in chapter if event.text == "claimed"), None)
    serves = next((event for event in reversed(chapter) if _is_service(event)), None)
    if claimed is None and gone is None:
        return []
    giver, taker = gone.node if gone else dead or "nobody", claimed.node if claimed else "nobody yet"
    took = f"served after {serves.seconds:.2f} s" if serves and serves.seconds is not None else unserved
    first = claimed or gone
    why = (claimed.why if claimed else "") or (gone.why if gone else "")
    lines = [f"{giver} -> {taker}, {told(first.time if first else '', now)}, {took} [{chapter[-1].trace}]"]
    lines += [f"  why: {why}"] if why else []
    if serves is not None and serves.phases:
        lines.append("  " + ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in serves.phases.items()))
    return lines


def _with_nodes(chapter: Sequence[Event], events: Sequence[Event]) -> list[Event]:
    """The chapter with what became of the nodes in it meanwhile, and shortly before."""
    times = [found for event in chapter if (found := moment(event.time)) is not None]
    nodes = {event.node for event in chapter}
    if not times:
        return list(chapter)
    first, last = min(times) - BEFORE, max(times)
    more = [
        event
        for event in events
        if event.kind is Kind.NODE and event.node in nodes and (at := moment(event.time)) and first <= at <= last
    ]
    return _as_happened(sorted([*chapter, *more], key=lambda event: (event.revision, event.number)))


def _line(event: Event, width: int, now: datetime) -> str:
    """One event; the phases of a service stand in its heading."""
    about = f"{event.node}: " if event.kind is Kind.NODE and event.node != event.who else ""
    seconds = f" [{event.seconds:.2f} s]" if event.seconds is not None else ""
    text = event.text.partition(" (")[0] if event.phases else event.text
    why = f": {event.why}" if event.why else ""
    return f"{local(event.time, now)}  {(event.who or '?').ljust(width)}  {about}{text}{seconds}{why}"
