"""Waiting for something to become true: the one place here that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

PERIOD = 0.25  # seconds between two looks; a look into a node costs 0.1-2 s itself


class NotInTime(AssertionError):
    """Something did not become true within its bound; the message says what, and what was seen last."""


def until(what: str, look: Callable[[], Answer | None], *, within: float) -> Answer:
    """Look again and again until the answer is truthy, and return it; NotInTime after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {within:.0f} s; last seen: {answer!r}")
        time.sleep(PERIOD)


def for_seconds(seconds: float) -> None:
    """Let time pass, where passing time is the test itself (a tenure that must run out)."""
    time.sleep(seconds)
