"""Who is connected to what is exported here, written down so that a taker can nudge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from gateway.errors import ClaimLost, Inconsistent, RbdgateError
from gateway.model import ClusterView, Connection, ImageSpec
from gateway.observed import Kernel

log = structlog.get_logger("cycle")


class Seen(Protocol):
    """Where connections are seen."""

    def connections(self, specs: Sequence[ImageSpec]) -> Mapping[str, tuple[Connection, ...]]:
        """The initiators' connections to the portals of each image here, by its uid, at one look."""
        ...


class Written(Protocol):
    """Where they are written."""

    def write_connections(self, uid: str, token: int, connections: tuple[Connection, ...]) -> None:
        """Write down who is connected to the holder of that claim."""
        ...


class ConnectionsTold:
    """Writes only what changed since it was last written; a failure costs a nudge, nothing else.

    Who was connected to a path that is down stays on record: its initiator may not know yet that it is.
    """

    def __init__(self, written: Written, seen: Seen) -> None:
        self._written, self._seen = written, seen
        self.counts: Mapping[str, int] = {}
        """How many connections each image had at the last look, by its uid."""
        self._told: dict[str, tuple[int, tuple[Connection, ...]]] = {}

    def tell(self, view: ClusterView, kernel: Kernel, lease: int) -> None:
        """Look at everything held under the lease, and write what is new."""
        held = view.held_under(lease)
        self._told = {uid: told for uid, told in self._told.items() if held.get(uid) == told[0]}
        exported = {target.iqn for target in kernel.targets}
        specs = [spec for uid in held if (spec := view.spec_of(uid)) is not None and spec.identity.iqn in exported]
        try:
            seen = self._seen.connections(specs) if specs else {}
        except RbdgateError as error:
            log.warning("connections not seen", error=str(error))
            return
        self.counts = {spec.uid: len(seen.get(spec.uid, ())) for spec in specs}
        for spec in specs:
            try:
                self._tell_of(spec, held[spec.uid], seen.get(spec.uid, ()), kernel)
            except (ClaimLost, Inconsistent) as error:
                log.warning("connections not told", image=str(spec.name), error=str(error))
            except RbdgateError as error:  # etcd does not answer: it would not for the others either
                log.warning("connections not told", image=str(spec.name), error=str(error))
                return

    def _tell_of(self, spec: ImageSpec, token: int, seen: tuple[Connection, ...], kernel: Kernel) -> None:
        told = self._told.get(spec.uid)
        left = {each for each in told[1] if each.portal not in kernel.addresses} if told else set[Connection]()
        now = (token, tuple(sorted(left.union(seen), key=str)))
        if now[1] and told != now:
            self._written.write_connections(spec.uid, *now)
            self._told[spec.uid] = now
