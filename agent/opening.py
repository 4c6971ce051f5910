"""What this node can open of the cluster's sealed credentials, each turn anew.

The key file is looked at whenever it changed, so a key that is copied here counts from the next turn on, without a
restart; one that is taken away is forgotten.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from gateway.access import Opened
from gateway.errors import Sealed
from gateway.model import ClusterView
from gateway.store.keys import Keys
from gateway.vault import Vault, load, open_all

log = structlog.get_logger("opening")


class Opener:
    """Opens credentials with the key of one file."""

    def __init__(self, key_file: Path, prefix: str) -> None:
        self._key_file, self._keys = key_file, Keys(prefix)
        self._seen: tuple[int, ...] = ()
        self._vault: Vault | Sealed = Sealed("the key of the secrets was not looked for yet")

    def open(self, view: ClusterView) -> Opened:
        """Everything of the view that can be opened here, and why not the rest."""
        return open_all(view, self._keys, self._present)

    def key_id(self) -> str:
        """Which key this node has; empty if it has none that it can use."""
        try:
            return self._present().key_id
        except Sealed:
            return ""

    def _present(self) -> Vault:
        seen = _state(self._key_file)
        if seen != self._seen:
            self._vault, self._seen = self._look(), seen
        if isinstance(self._vault, Sealed):
            raise Sealed(str(self._vault))  # a new one: an exception that is raised again grows by its traceback
        return self._vault

    def _look(self) -> Vault | Sealed:
        try:
            vault = load(self._key_file)
        except Sealed as error:
            log.info("no key of the secrets", error=str(error))
            return error
        log.info("the key of the secrets is here", key_id=vault.key_id)
        return vault


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file does; -1 for one that is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return (-1,)
    return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_uid)
