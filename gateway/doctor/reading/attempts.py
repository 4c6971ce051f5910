"""One look at a time: what fails is `Unread`, and no command or file is waited for without a bound."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from gateway.doctor.finding import Unread
from gateway.errors import RbdgateError, Unavailable

T = TypeVar("T")

COMMAND_BOUND = 5.0
"""Seconds a command of the system's gets."""

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def attempt(what: str, look: Callable[[], T]) -> T | Unread:
    """What the look saw, or why it saw nothing."""
    try:
        return look()
    except (RbdgateError, OSError, ValueError) as error:
        return Unread(what, str(error))


def text_of(path: Path) -> str | None:
    """A file's text; None if there is none, OSError if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def output_of(*command: str) -> str:
    """A command's standard output, whatever its exit status; Unavailable if it is not there or does not end."""
    return _run(command).stdout


def succeeds(*command: str) -> bool:
    """Whether a command ends with status 0; Unavailable as `output_of`."""
    return _run(command).returncode == 0


def installed(program: str) -> bool:
    """Whether the system has that program."""
    return any(os.access(f"{place}/{program}", os.X_OK) for place in _ENVIRONMENT["PATH"].split(":"))


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMMAND_BOUND, check=False,
            stdin=subprocess.DEVNULL, env=_ENVIRONMENT,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`{' '.join(command)}` did not end within {COMMAND_BOUND:g} s") from None
