"""What the daemons say on standard error, for journald or a terminal: one event a line, `key=value`.

Under journald (`JOURNAL_STREAM` names the very file that standard error is, systemd.exec(5)) each line begins with its
priority as `<N>` (sd-daemon(3)), which `journalctl -p` filters by, and bears no time, for the journal has it. Elsewhere
each line begins with its time and the word for its level. Fields that say nothing are left out.

A line that cannot be written (nobody reads standard error any more, the disk is full) is lost and nothing else: logging
never raises. It waits as long as whoever reads does not, so what cannot wait is done before it is logged.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, TextIO, cast

import structlog
from structlog.typing import Processor, WrappedLogger

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
"""syslog(3)'s priorities by the levels of the log."""

FIRST = ["level", "event", "image", "path", "node", "reason", "trace"]
"""The fields that come first in a line, in this order."""

_render = structlog.processors.LogfmtRenderer(key_order=FIRST, drop_missing=True)

_Line = MutableMapping[str, Any]


def set_up(node: str = "", *, stream: TextIO = sys.stderr, environment: Mapping[str, str] = os.environ) -> None:
    """Have every logger of this process write lines to the stream; `node` is this node's name, once it is known."""
    to_journal = is_journal(stream, environment)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _named(node),
            _one_line,
            _for_journal if to_journal else _for_people,
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Losing(stream))),
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _log_death


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether journald reads what is written to the stream; one that was sent elsewhere has another file behind it."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Losing:
    """A stream that loses what cannot be written to the one below."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _named(node: str) -> Processor:
    """Give each line the node it is about: this one, unless it names another; that this one said so is told then."""

    def name(_: WrappedLogger, __: str, line: _Line) -> _Line:
        if node and line.setdefault("node", node) != node:
            line.setdefault("by", node)
        return line

    return name


def _one_line(_: WrappedLogger, __: str, line: _Line) -> _Line:
    """Drop what says nothing, and whatever a terminal or the journal would not take for text."""
    said = {key: value for key, value in line.items() if value is not None and value != ""}
    return {key: _plain(value) if isinstance(value, str) else value for key, value in said.items()}


def _plain(text: str) -> str:
    """Text that can be printed in one line; the ends of lines, as in a traceback, are written as logfmt does."""
    return "\n".join("".join(c if c.isprintable() else " " for c in part) for part in text.splitlines())


def _for_journal(logger: WrappedLogger, method: str, line: _Line) -> str:
    return f"<{PRIORITIES.get(method, 6)}>{_render(logger, method, line)}"


def _for_people(logger: WrappedLogger, method: str, line: _Line) -> str:
    return f"{datetime.now().astimezone().isoformat(timespec='milliseconds')} {_render(logger, method, line)}"


def _log_death(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python calls when the process dies of an error: that is an event, too, and one line."""
    text = "".join(traceback.format_exception(kind, error, trace))
    structlog.get_logger("main").critical("died of a bug", exception=text)
