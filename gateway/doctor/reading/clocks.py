"""Reads what `checks/clocks.py` judges: the kernel's own word, and the date each etcd member puts on an answer."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping

from gateway.doctor.checks.clocks import ClockFacts
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt
from gateway.store.exposition import Exposition

_TIME_ERROR = 5
"""What adjtimex(2) returns while nobody disciplines the clock."""


def read(expositions: Callable[[], Mapping[str, Exposition | Unread]]) -> ClockFacts:
    """This node's clock, and the members' beside it."""
    ahead = {member: _ahead(said) for member, said in expositions().items()}
    return ClockFacts(attempt("whether this node's clock is synchronised", _synchronised), ahead)


def _ahead(said: Exposition | Unread) -> float | Unread:
    if isinstance(said, Unread):
        return said
    # Its second began up to a second before it answered, which was up to `took` before it was heard.
    return said.date + 0.5 - (said.heard_at - said.took / 2)


def _synchronised() -> bool:
    """Ask without changing anything: `modes` of struct timex (208 bytes on 64-bit Linux) is 0."""
    timex = ctypes.create_string_buffer(256)
    state: int = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return state != _TIME_ERROR
