"""Operators' commands as events: what was accepted is written into the log, at one place for all commands.

A command that changes something is recorded as soon as it is accepted: when it begins to wait for the cluster to
follow, or when it returns. So in the log it stands beside the first of what it causes, now and then after it; its time
is that of its beginning. One that is refused leaves no event, and an event that cannot be written is a warning, not a
failure: what was asked for stands.
"""

from __future__ import annotations

import os
import pwd
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.actions.waiting import Patience, Pending
from gateway.errors import OutcomeUnknown, RbdgateError
from gateway.events import Event, Kind
from gateway.model import Label
from gateway.store.events import wall_time

if TYPE_CHECKING:
    from gateway.cli.session import Answer, Run, Session

T = TypeVar("T")

LOOKS = frozenset(
    {
        "cluster discovery-auth show",
        "cluster show",
        "doctor",
        "events",
        "image list",
        "image show",
        "initiator chap show",
        "initiator group list",
        "initiator group show",
        "initiator list",
        "node list",
        "node show",
        "plan",
        "reservation list",
        "reservation show",
        "status",
    }
)
"""The commands that change nothing in the cluster; every other one is recorded."""

WRITE_BOUND = 2.0
"""How long a command waits for its event to be written, in seconds."""

_UNTOLD = {"--json": 0, "--wait": 0, "--no-wait": 0, "--settings": 1, "--timeout": 1, "--reason": 1}
"""Options that say nothing of what was asked for (the reason is told as such), with how many words follow them."""


def run_recorded(session: Session, chosen: Namespace, arguments: Sequence[str], run: Run) -> Answer:
    """Run a command, recorded unless it only looks."""
    if chosen.words in LOOKS or getattr(chosen, "dry_run", False):
        return run(session, chosen)
    record = _Once(session, _event(chosen, arguments, operator(str(session.node))))
    try:
        answer = run(replace(session, patience=_watched(session.patience, record)), chosen)
    except OutcomeUnknown:
        record("whether it was done is not known: etcd did not answer")
        raise
    record()
    return answer


def operator(node: str, environment: Mapping[str, str] = os.environ) -> str:
    """Who runs this command, as `operator root@gw1 (via sudo: alice)`."""
    login = _login(os.geteuid())
    before = environment.get("SUDO_USER") or _first_login()
    via = f" (via sudo: {before})" if before and before != login else ""
    return f"operator {login}@{node}{via}"


class _Once:
    """Writes an event at the first call and does nothing at any later one."""

    def __init__(self, session: Session, event: Event) -> None:
        self._session, self._event, self._done = session, event, False

    def __call__(self, doubt: str = "") -> None:
        if self._done:
            return
        self._done = True
        why = "; ".join(part for part in (self._event.why, doubt) if part)
        try:
            self._session.store.events(timeout=WRITE_BOUND).record([replace(self._event, why=why)])
        except RbdgateError as error:
            self._session.warn(f"this command was accepted, but is not in the log of events: {error}")


@dataclass(frozen=True)
class _Watched(Patience):
    accepted: Callable[[], None] = lambda: None

    def until(self, look: Callable[[], T | Pending]) -> T:
        """As ever, but whoever begins to wait has been accepted."""
        self.accepted()
        return super().until(look)


def _watched(patience: Patience, accepted: Callable[[], None]) -> Patience:
    return _Watched(patience.timeout, patience.progress, patience.clock, patience.sleep, accepted)


def _event(chosen: Namespace, arguments: Sequence[str], who: str) -> Event:
    """The command line itself says best what was asked for: secrets are never on it."""
    node = getattr(chosen, "node", None) or getattr(chosen, "to", None)
    return Event(
        Kind.OPERATOR,
        "rbdgate " + shlex.join(_telling(arguments)),
        getattr(chosen, "reason", None) or "",
        image=str(getattr(chosen, "image", "")),
        node=str(node) if isinstance(node, Label) else "",
        who=who,
        time=wall_time(),
    )


def _telling(arguments: Sequence[str]) -> list[str]:
    told, left = [], list(arguments)
    while left:
        word = left.pop(0)
        option, equals, _ = word.partition("=")
        if option not in _UNTOLD:
            told.append(word)
        elif not equals:
            del left[: _UNTOLD[option]]
    return told


def _login(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _first_login() -> str:
    """Who logged in to this session before any `su`, as the kernel's audit remembers it; empty where it does not."""
    with suppress(OSError, ValueError):
        uid = int(Path("/proc/self/loginuid").read_text())
        if uid != 2**32 - 1:  # (uid_t) -1: nobody logged in, a service did this
            return _login(uid)
    return ""
