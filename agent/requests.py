"""Which of this node's kernel clients gave a request up that its OSD may still carry out.

Such a client is never released as clean: what an OSD still has of it could land after the next holder's writes. It is
fenced instead, as a crashed node's is. For that whatever cannot be known here counts as given up; only what is shown to
people tells the two apart.

What was read is kept in `/run`, because the log is a ring: a successor of the agent goes on where this one stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Set
from typing import Protocol

import structlog

from gateway.images.kernel_log import Excerpt
from gateway.model import Instance
from gateway.runtime import RequestsRead, RuntimeDirectory

log = structlog.get_logger("requests")

REMEMBERED = 32
"""How many clients are remembered; one membership has one, and a few of former ones may be left."""


class Log(Protocol):
    """What is asked of the kernel's log."""

    def look(self, after: int) -> Excerpt:
        """What comes after that record; OSError if the log cannot be read."""
        ...


class RequestLedger:
    """Holds what the kernel's log says against the clients that were mapped meanwhile; for any thread."""

    def __init__(self, kernel_log: Log, runtime: RuntimeDirectory, boot_id: str) -> None:
        self._log, self._runtime, self._boot_id = kernel_log, runtime, boot_id
        self._lock = threading.Lock()
        self._kept = runtime.read_requests(boot_id) or RequestsRead(boot_id, -1, {})
        self._position = self._kept.position
        self._event: bool | None = False
        """Whether a request was given up since the last `note`; None if that cannot be known."""
        self.given_up: bool | None = None
        """Whether a client that had mappings at the last `note` has given a request up; None if that is unknown."""

    def read(self) -> None:
        """Read what is new in the log: each turn *before* it looks at the mappings, which it then hands to `note`.

        A client that is there now, and was not at the look before, has been mapped after all that was read by then.
        """
        with self._lock:
            self._read()

    def note(self, mapped: Set[Instance]) -> None:
        """These kernel clients have mappings of ours now: what was given up since the last look may be theirs."""
        with self._lock:
            old = self._kept.clients
            gone = {client: _any(word, self._event) for client, word in old.items() if client not in mapped}
            here = {client: _any(old.get(client, False), self._event) for client in sorted(mapped)}
            clients = dict(list({**gone, **here}.items())[-REMEMBERED:])
            new = RequestsRead(self._boot_id, self._position, clients)
            self._event, self.given_up = False, _any(*here.values())
            if new != self._kept:
                self._kept = new
                self._keep()

    def complete(self, client: Instance) -> bool:
        """Whether every request of that client was answered, as far as the log says by now; unknown is no."""
        with self._lock:
            self._read()
            return self._kept.clients.get(client) is False and self._event is False

    def _read(self) -> None:
        try:
            excerpt = self._log.look(self._position)
        except OSError as error:
            if self._event is False:
                log.warning("the kernel's log cannot be read: every request counts as given up", error=str(error))
            self._event = _any(self._event, None)
            return
        if excerpt.given_up or excerpt.lost:
            log.warning("requests given up", named=excerpt.given_up, records_lost=excerpt.lost)
        self._event = _any(self._event, True if excerpt.given_up else None if excerpt.lost else False)
        self._position = excerpt.last

    def _keep(self) -> None:
        try:
            self._runtime.write_requests(self._kept)
        except OSError as error:  # a successor then knows nothing, and counts every client as one that gave up
            log.warning("what was read of the kernel's log is not kept", error=str(error))


def _any(*words: bool | None) -> bool | None:
    """Whether a request was given up by any of these; one that is unknown leaves open what the others deny."""
    if True in words:
        return True
    return None if None in words else False
