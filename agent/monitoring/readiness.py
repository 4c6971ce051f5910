"""Whether this gateway is healthy and ready, from what is known without asking anybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.monitoring.sights import Board
from agent.reachability import Reachability
from gateway.runtime import Tenure
from gateway.timers import guard_lives

TURNS = 60.0
"""After how many seconds without a turn the agent counts as hung: its unit's `WatchdogSec=`."""

READ = 15.0
"""After how many seconds without a turn that did not fail the cycle counts as failing, and without everything read
etcd as not answering: three turns that nothing woke."""


@dataclass(frozen=True)
class Live:
    """What is looked at when it is asked for; none of these blocks."""

    clock: Callable[[], float]
    board: Board
    started: float
    tenure: Callable[[], Tenure]
    reachability: Reachability
    connected: Callable[[], bool]
    guard_sign: Callable[[], float | None]

    def hung(self) -> str:
        """Why the agent counts as hung; empty if it does not."""
        silent = self._silent()
        return "" if silent < TURNS else f"the cycle has not turned for {silent:.0f} s"

    def unread(self, bound: float) -> str:
        """Why what was last read of etcd is not its present state after so many seconds; empty if it still counts."""
        cluster = self.board.cluster
        if cluster is None:
            return "etcd was not read yet"
        age, silent = self.clock() - cluster.at, self._silent()
        if age < bound:
            return ""
        if silent >= bound:
            return f"the cycle has not turned for {silent:.0f} s: whether etcd answers is not known"
        return f"etcd was last read {age:.0f} s ago"

    def missing(self) -> Mapping[str, str]:
        """Each part that serving needs, with what is wrong with it; empty if nothing is."""
        return {
            "cycle": self._cycle(),
            "lease": self._lease(),
            "etcd": self.unread(READ),
            "storage": self._storage(),
            "guard": self._guard(),
        }

    def _cycle(self) -> str:
        silent, last = self._silent(), self.board.went
        failing = self.clock() - (self.started if last is None else last)
        if silent >= READ:
            return f"the cycle has not turned for {silent:.0f} s"
        return "" if failing < READ else f"every turn has failed for {failing:.0f} s; the agent's journal says why"

    def _lease(self) -> str:
        tenure = self.tenure()
        if not tenure.lease:
            return "this gateway has no lease"
        return "" if tenure.runs(self.clock()) else "its tenure is over: etcd has not confirmed its lease in time"

    def _silent(self) -> float:
        """For how many seconds no turn has ended."""
        last = self.board.turned
        return self.clock() - (self.started if last is None else last)

    def _storage(self) -> str:
        if not self.connected():
            return "this gateway has no connection to Ceph"
        now = self.clock()
        if not self.reachability.doubted(now):
            return ""
        return f"Ceph has not answered for {self.reachability.silence(now):.0f} s"

    def _guard(self) -> str:
        lives = guard_lives(self.guard_sign(), self.clock())
        return "" if lives else "the guard (rbdgate-guard.service) is not running, or hangs"
