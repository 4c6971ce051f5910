"""Until when this node may serve, and the files in `/run` that say so to the guard and to the next agent.

All times are seconds on CLOCK_BOOTTIME of this boot; a file of another boot says nothing. The files hold nothing that
is missed when they are gone: without them the node withdraws and begins anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import BadInput
from gateway.model import Instance, Label

_CONDEMNED, _CROWDED, _RESTORED = "condemned.", "crowded.", "restored."


@dataclass(frozen=True)
class Tenure:
    """A proven right to serve: the lease, the end, and the claims seen under the lease after it was renewed.

    `claims` maps an image's uid to its claim's token. A claim that is not in it may not be served, however long
    the tenure. `node` is the name that the node had in the cluster; empty where that is not known.
    """

    boot_id: str
    lease: int
    end: float
    claims: Mapping[str, int] = field(default_factory=dict)
    node: str = ""

    def runs(self, now: float) -> bool:
        """Whether the node may serve at this time."""
        return now < self.end

    def covers(self, uid: str, token: int, now: float) -> bool:
        """Whether the node may serve this image under this claim at this time."""
        return self.runs(now) and self.claims.get(uid) == token


@dataclass(frozen=True)
class RequestsRead:
    """What an agent has read of the kernel's log: up to which record, and which clients gave a request up.

    None: a client of which that cannot be known.
    """

    boot_id: str
    position: int
    clients: Mapping[Instance, bool | None]


@dataclass(frozen=True)
class RuntimeDirectory:
    """`/run/rbdgate`: what the agent leaves there for the guard and its own successor."""

    path: Path

    @property
    def lock(self) -> Path:
        """The lock that every writer to configfs on this node takes."""
        return self.path / "configfs.lock"

    def write_tenure(self, tenure: Tenure) -> None:
        """Replace the tenure's file in one rename, so that a reader sees the old one or the new one."""
        value = {
            "boot_id": tenure.boot_id,
            "lease": tenure.lease,
            "end": tenure.end,
            "claims": dict(tenure.claims),
            "node": tenure.node,
        }
        self._replace("tenure", json.dumps(value))

    def read_tenure(self, boot_id: str) -> Tenure | None:
        """The tenure on file; None if there is none, it is of another boot, or it cannot be read."""
        try:
            value = json.loads((self.path / "tenure").read_text())
            claims = {str(uid): int(token) for uid, token in value["claims"].items()}
            node = str(value.get("node", ""))
            tenure = Tenure(str(value["boot_id"]), int(value["lease"]), float(value["end"]), claims, node)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return tenure if tenure.boot_id == boot_id else None

    def drop_tenure(self) -> None:
        """Forget the tenure: the node does not serve from now on."""
        (self.path / "tenure").unlink(missing_ok=True)

    def write_requests(self, read: RequestsRead) -> None:
        """Keep how far the kernel's log was read, and what it said; older agents take the unknown for given up."""
        clients = {str(client): "unknown" if word is None else word for client, word in read.clients.items()}
        self._replace("requests", json.dumps({"boot_id": read.boot_id, "position": read.position, "clients": clients}))

    def read_requests(self, boot_id: str) -> RequestsRead | None:
        """What was kept; None if there is nothing, it is of another boot, or it cannot be read."""
        try:
            value = json.loads((self.path / "requests").read_text())
            words = value["clients"].items()
            clients = {Instance(text): word if isinstance(word, bool) else None for text, word in words}
            read = RequestsRead(str(value["boot_id"]), int(value["position"]), clients)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BadInput):
            return None
        return read if read.boot_id == boot_id else None

    def write_live(self, lease: int, nodes: Set[Label]) -> None:
        """Leave which nodes this one last saw live under its lease; without it a death while no agent ran is untold."""
        with suppress(OSError):
            self._replace("live", json.dumps({"lease": lease, "nodes": sorted(map(str, nodes))}))

    def read_live(self, lease: int) -> frozenset[Label]:
        """The nodes that were last seen live under this lease; none if that is not on file."""
        try:
            value = json.loads((self.path / "live").read_text())
            return frozenset(map(Label, value["nodes"])) if value["lease"] == lease else frozenset()
        except (OSError, ValueError, KeyError, TypeError, BadInput):
            return frozenset()

    def write_guard_sign(self, now: float) -> None:
        """Leave the guard's sign of life."""
        self._replace("guard", json.dumps(now))

    def guard_sign(self) -> float | None:
        """When the guard last gave a sign of life; None if it never did since boot or took it back."""
        try:
            return float(json.loads((self.path / "guard").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write_cycle_sign(self, now: float) -> None:
        """Leave the sign that the agent's cycle turned; one that cannot be written is missed by the watchdog alone."""
        with suppress(OSError):
            self._replace("cycle", json.dumps(now))

    def cycle_sign(self) -> float | None:
        """When the agent's cycle last turned; None if it never did since boot."""
        try:
            return float(json.loads((self.path / "cycle").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def condemn(self, uid: str, reason: str) -> None:
        """Say that what this kernel exports of an image must not be reached any more, and why; OSError if it cannot."""
        self._replace(f"{_CONDEMNED}{uid}", reason)

    def condemned(self) -> dict[str, str]:
        """The images whose export is condemned, by uid, with the reason."""
        return self._marks(_CONDEMNED)

    def absolve(self, uid: str, reason: str) -> None:
        """Forget that an image was condemned for that reason; a mark that says another one by now is left."""
        mark = self.path / f"{_CONDEMNED}{uid}"
        with suppress(FileNotFoundError):
            if mark.read_text() == reason:
                mark.unlink()

    def write_restored(self, uid: str, text: bytes) -> None:
        """Leave the `pr_info` that an export was restored from to the guard; it goes without if there is no room."""
        (self.path / f"{_RESTORED}{uid}").unlink(missing_ok=True)
        with suppress(OSError):
            self._replace(f"{_RESTORED}{uid}", text)

    def take_restored(self, uid: str) -> bytes | None:
        """That text, once; None if there is none."""
        file = self.path / f"{_RESTORED}{uid}"
        try:
            text = file.read_bytes()
            file.unlink()
        except OSError:
            return None
        return text

    def mark_crowded(self, uid: str, registrations: int) -> None:
        """Say how many registrations an image has, of which there is not room for many more; 0: there is."""
        if registrations:
            self._replace(f"{_CROWDED}{uid}", str(registrations))
        else:
            (self.path / f"{_CROWDED}{uid}").unlink(missing_ok=True)

    def crowded(self) -> dict[str, int]:
        """The images whose table of registrations is nearly full, by uid, with their number."""
        return {uid: int(text) for uid, text in self._marks(_CROWDED).items() if text.isdecimal()}

    def _marks(self, kind: str) -> dict[str, str]:
        found = {}
        with suppress(FileNotFoundError):
            for mark in self.path.iterdir():
                if mark.name.startswith(kind):
                    with suppress(FileNotFoundError):
                        found[mark.name.removeprefix(kind)] = mark.read_text()
        return found

    @property
    def figures(self) -> Path:
        """What the guard has counted, for whoever measures."""
        return self.path / "figures"

    def write_figures(self, text: str) -> None:
        """Leave what the guard has counted; a reader knows by its age that it could not be written."""
        with suppress(OSError):
            self._replace("figures", text)

    def drop_guard_sign(self) -> None:
        """Say that there is no guard now."""
        (self.path / "guard").unlink(missing_ok=True)

    def _replace(self, name: str, text: str | bytes) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path / f".{name}.{os.getpid()}"
        temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
        temporary.rename(self.path / name)
