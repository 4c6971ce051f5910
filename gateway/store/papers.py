"""What a process shows etcd, kept in step with the files: one `Papers` for all its clients and threads.

Rule: files that do not fit together, or cannot be read, change nothing: what was read before stays, and why the files
are not taken is told once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gateway.credentials import Secret
from gateway.errors import BadSettings
from gateway.store.security import PLAIN, Identity, Security, read_identity, read_password

LOOK = 1.0
"""Seconds between two looks at the files."""

REST = 1.0
"""Seconds before a refused password is shown again: a try costs etcd a tenth of a second of a processor."""

_Mark = tuple[object, ...]


@dataclass(frozen=True)
class Renewed:
    """The files hold another identity than before; its certificate lasts until `ends` (UTC; None without one)."""

    ends: datetime | None


@dataclass(frozen=True)
class NotRenewed:
    """The files changed and are not taken, or do not reach etcd; the former identity stays in use."""

    reason: str


News = Renewed | NotRenewed


class Papers:
    """Reads at once, BadSettings if that fails; `tell` hears of every change after that, in whichever thread saw it."""

    def __init__(self, security: Security | None = None, *, tell: Callable[[News], None] = lambda _: None) -> None:
        self.security = security or PLAIN
        self.tell = tell
        self._lock = threading.Lock()
        self._mark = _mark(self.security.files)
        self._identity = read_identity(self.security)
        self._looked = time.monotonic()
        self.passwords = Passwords(self.security)

    @property
    def identity(self) -> Identity | None:
        """The latest identity that fits together; None where TLS is not spoken."""
        with self._lock:
            if not self.security.files or time.monotonic() - self._looked < LOOK:
                return self._identity
            self._looked = time.monotonic()
            news = self._look()
            identity = self._identity
        if news is not None:
            self.tell(news)
        return identity

    @property
    def certificate_expiry(self) -> float | None:
        """When the node's certificate ends, in seconds since the epoch; None if it has none."""
        identity = self.identity
        return identity.ends.timestamp() if identity is not None and identity.ends is not None else None

    def _look(self) -> News | None:
        mark = _mark(self.security.files)  # before the contents: what is written meanwhile is seen next time
        if mark == self._mark:
            return None
        self._mark = mark
        try:
            found = read_identity(self.security)
        except BadSettings as error:
            return NotRenewed(str(error))
        if found is None or found == self._identity:
            return None
        self._identity = found
        return Renewed(found.ends)


class Passwords:
    """The passwords worth trying for the settings' user: the file's, then the last that etcd took.

    So it does not matter whether etcd or the file learns of a new one first, as long as the file does before the old
    one is asked for anew.
    """

    def __init__(self, security: Security) -> None:
        self._file = security.password_file
        self._lock = threading.Lock()
        self._taken: Secret | None = None
        self._refused: tuple[_Mark, float] | None = None

    def candidates(self) -> tuple[Secret, ...]:
        """Each to be tried in this order; none while these were refused a moment ago; BadSettings without any."""
        assert self._file is not None
        with self._lock:
            if self._refused is not None and self._refused[0] == _mark((self._file,)):
                rested = time.monotonic() - self._refused[1] >= REST
                if not rested:
                    return ()
            try:
                written = read_password(self._file)
            except BadSettings:
                if self._taken is None:
                    raise
                return (self._taken,)
            return (written,) if self._taken in (None, written) else (written, self._taken)

    def took(self, password: Secret) -> None:
        """etcd took this one."""
        with self._lock:
            self._taken, self._refused = password, None

    def refused(self) -> None:
        """etcd took none of them."""
        assert self._file is not None
        with self._lock:
            self._refused = (_mark((self._file,)), time.monotonic())


def _mark(files: tuple[Path, ...]) -> _Mark:
    """What changes when a file does; None in the place of one that is not there."""
    return tuple(_file_mark(file) for file in files)


def _file_mark(file: Path) -> _Mark | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
