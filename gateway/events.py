"""An event: one line of the cluster's log of moves, fences, faults and operators' actions. Pure.

Events are for people. Nothing is ever decided on one: each carries its writer's wall clock, and a log that is full,
damaged or gone changes nothing that is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from gateway.model import ImageName, Label
from gateway.strict_json import Fields, reading, write_form

LARGEST = 2048
"""The most bytes one event takes in etcd: longer texts are cut."""

PHASES, PHASE = 8, 10
"""How many parts an event can have, and how many characters the name of one."""

_BOUNDS = (800, 400, 200, 100, 50, 25)
"""How many characters each text may have; the first of these that gives a form of at most LARGEST bytes is taken."""


class Kind(Enum):
    """What an event is about, in one word."""

    OPERATOR = "operator"
    NODE = "node"
    IMAGE = "image"
    PATH = "path"
    ADDRESS = "address"
    FENCE = "fence"
    FAULT = "fault"
    OTHER = "other"


@dataclass(frozen=True)
class Event:
    """One thing that happened: `text` says what in one sentence, `why` the reason, `who` whose doing it was.

    `time` is UTC by the writer's clock (ISO 8601 with milliseconds), `seconds` how long it took, where that is known,
    and `phases` the seconds of its parts. `path` is the tag of the path it is about, 0 if it is about none. `trace` is
    the same word in all events of one change of hands (`trace_of`). `number` counts the log's events, `revision` is
    etcd's when this one was written; both are 0 before.
    """

    kind: Kind
    text: str
    why: str = ""
    image: str = ""
    uid: str = ""
    node: str = ""
    seconds: float | None = None
    trace: str = ""
    who: str = ""
    time: str = ""
    number: int = 0
    revision: int = 0
    path: int = 0
    phases: Mapping[str, float] = field(default_factory=dict)

    def concerns_image(self, name: ImageName, uid: str | None) -> bool:
        """Whether it is about the image of that name, under whatever name it had where the uid is known."""
        return self.image == str(name) or (bool(self.uid) and self.uid == uid)

    def concerns_node(self, node: Label) -> bool:
        """Whether it is about the node, or was its doing."""
        return str(node) in (self.node, self.who)

    def as_dict(self) -> dict[str, Any]:
        """The event as `--json` prints it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"kind": self.kind.value, "phases": dict(self.phases)}


def trace_of(token: int) -> str:
    """The word that ties together what happened when a claim ended, and before that under it: the claim's token.

    It is known without asking to the holder, to its guard (the kernel's backstores bear it), and to the next holder,
    which has seen that claim or its records; etcd gives each token once. The takeover of an image that was never held
    before bears its own.
    """
    return f"claim-{token}"


def write_event(event: Event) -> bytes:
    """The form of one event, LARGEST bytes at most."""
    for bound in _BOUNDS:
        value = _form(event, bound)
        if len(value) <= LARGEST:
            break
    return value


def read_event(value: bytes, where: str, *, revision: int) -> Event:
    """Read an event; words of a newer version are passed over. BadInput if it is none."""
    with reading(where, value) as form:
        event = Event(
            kind=_kind(form.text("kind")),
            text=_plain(form.text("text")),
            number=form.number("number"),
            revision=revision,
            seconds=form.number("milliseconds") / 1000 if form.has("milliseconds") else None,
            path=form.number("path") if form.has("path") else 0,
            phases=_phases(form),
            **{key: _plain(form.text(key)) for key in _MORE if form.has(key)},
        )
        form.ignore_rest()
    return event


_MORE = ("why", "image", "uid", "node", "trace", "who", "time")


def _form(event: Event, bound: int) -> bytes:
    texts = {key: _cut(_plain(getattr(event, key)), bound) for key in ("text", *_MORE)}
    said: dict[str, object] = {key: text for key, text in texts.items() if text or key == "text"}
    if event.seconds is not None:
        said["milliseconds"] = _milliseconds(event.seconds)
    if event.path:
        said["path"] = event.path
    if event.phases:
        said["phases"] = [
            {"phase": _cut(_plain(phase), PHASE), "milliseconds": _milliseconds(seconds)}
            for phase, seconds in list(event.phases.items())[:PHASES]
        ]
    return write_form(number=event.number, kind=event.kind.value, **said)


def _phases(form: Fields) -> dict[str, float]:
    """The parts in their order; what else a newer version says of one is passed over."""
    found = {}
    for part in form.objects("phases") if form.has("phases") else ():
        found[_plain(part.text("phase"))] = part.number("milliseconds") / 1000
    return found


def _milliseconds(seconds: float) -> int:
    return round(max(seconds, 0.0) * 1000)


def _kind(text: str) -> Kind:
    try:
        return Kind(text)
    except ValueError:
        return Kind.OTHER


def _cut(text: str, bound: int) -> str:
    return text if len(text) <= bound else text[: bound - 3] + "..."


def _plain(text: str) -> str:
    """One line that no terminal takes for a command: whatever cannot be printed becomes a space."""
    if not text.isprintable():  # hardly ever, and letter by letter the whole log takes twice as long to read
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())
