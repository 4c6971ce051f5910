"""When a node that Ceph does not answer gives its images up: only if another node shows that Ceph answers it. Pure.

A slow Ceph must never look like a dead gateway. So a node that is not answered says so in its word; a node that reads
this asks Ceph again, and writes into its own word which revision it had read before the answer (`LiveNode.answered`).
Words that are older than the question, and nodes whose turns are slow, prove nothing. And both must last: whoever is
answered again a moment later than others, after Ceph was away for all, keeps its images.
"""

from __future__ import annotations

from gateway.model import NOT_ANSWERED, ClusterView, Label
from gateway.placement import unfit
from gateway.timers import Timers


class Witness:
    """What one node can say of Ceph to others that are not answered."""

    def __init__(self) -> None:
        self._said = 0
        self._asked: tuple[int, float] | None = None

    def asked(self, view: ClusterView, me: Label, running: float) -> float | None:
        """Take note of who asks; returns the running time (seconds) after which Ceph must be asked anew, if it must.

        `running` is now, after the view was read.
        """
        word = view.live.get(me)
        self._said = max(self._said, word.answered if word else 0)
        others = (word for node, word in view.live.items() if node != me and word.obstacle == NOT_ANSWERED)
        newest = max((word.revision for word in others), default=0)
        if newest > max(self._said, self._asked[0] if self._asked else 0):
            self._asked = (view.revision, running)
        return self._asked[1] if self._asked else None

    def said(self, answered: float) -> int:
        """The revision to write, if Ceph answered what was sent at that running time and all before it."""
        if self._asked is not None and answered > self._asked[1]:
            self._said, self._asked = self._asked[0], None
        return self._said


class StorageLoss:
    """Follows one node's silence and what others show meanwhile."""

    def __init__(self, timers: Timers) -> None:
        self._lasts = timers.storage_loss
        self._healing = timers.storage_doubt
        """For so long another node must be answered and this one not: after an outage for all, some heal first."""
        self._since: float | None = None
        self._witness: Label | None = None

    def reason(self, view: ClusterView, me: Label, *, silence: float, running: float) -> str | None:
        """Why this node gives its images up now; None if it keeps them. Silence and running time are in seconds."""
        witness = self._who_is_answered(view, me) if silence >= self._healing else None
        if witness is None:
            self._since = self._witness = None
            return None
        if self._since is None or witness != self._witness:
            self._since, self._witness = running, witness
        if silence < self._lasts or running - self._since < self._healing:
            return None
        return f"Ceph has not answered this node for {silence:.0f} s, and it answers {witness}"

    def _who_is_answered(self, view: ClusterView, me: Label) -> Label | None:
        """A node that can serve, and was answered after this node had said that it is not."""
        word = view.live.get(me)
        if word is None or word.obstacle != NOT_ANSWERED:
            return None
        proven = (n for n, other in view.live.items() if other.answered >= word.revision and unfit(view, n) is None)
        if self._witness in (known := sorted(proven)):
            return self._witness
        return known[0] if known else None
