"""The product's threads and daemons as actors of the stage, with `/run` in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.guard import Guard
from agent.keeper import LeaseKeeper
from agent.reachability import Prober
from agent.workers import Failure, Workers
from gateway.errors import RbdgateError
from gateway.runtime import RequestsRead, RuntimeDirectory, Tenure
from tests.simulation.signals import Meeting, Signal
from tests.simulation.stage import Actor, Process, Stage


class MemoryRuntime(RuntimeDirectory):
    """`/run/rbdgate` in memory, for one boot; `shorter` hears when the tenure ends earlier than it did."""

    def __init__(self, sign: Callable[[], float | None]) -> None:
        object.__setattr__(self, "path", None)
        object.__setattr__(self, "_tenure", None)
        object.__setattr__(self, "_requests", None)
        object.__setattr__(self, "_turned", None)
        object.__setattr__(self, "_sign", sign)
        object.__setattr__(self, "shorter", lambda: None)

    _tenure: Tenure | None
    _requests: RequestsRead | None
    _turned: float | None
    _sign: Callable[[], float | None]
    shorter: Callable[[], None]

    def write_tenure(self, tenure: Tenure) -> None:
        """Write it."""
        earlier = self._tenure is not None and tenure.end < self._tenure.end
        object.__setattr__(self, "_tenure", tenure)
        if earlier:
            self.shorter()

    def read_tenure(self, boot_id: str) -> Tenure | None:
        """Read it."""
        tenure = self._tenure
        return tenure if tenure is not None and tenure.boot_id == boot_id else None

    def drop_tenure(self) -> None:
        """Forget it."""
        object.__setattr__(self, "_tenure", None)
        self.shorter()

    def write_requests(self, read: RequestsRead) -> None:
        """Keep it."""
        object.__setattr__(self, "_requests", read)

    def read_requests(self, boot_id: str) -> RequestsRead | None:
        """What was kept."""
        return self._requests

    def write_cycle_sign(self, now: float) -> None:
        """Keep it."""
        object.__setattr__(self, "_turned", now)

    def cycle_sign(self) -> float | None:
        """What was kept."""
        return self._turned

    def write_guard_sign(self, now: float) -> None:
        """The guard's sign is as fresh as the guard is alive."""

    def write_figures(self, text: str) -> None:
        """Nobody on the stage measures."""

    def guard_sign(self) -> float | None:
        """Its sign."""
        return self._sign()

    def drop_guard_sign(self) -> None:
        """Likewise."""


class StagedKeeper(LeaseKeeper):
    """The real keeper as an actor."""

    def __init__(self, process: Process, rate: float, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._process, self._stage = process, process.stage
        self._wake = Signal(self._stage, rate)  # type: ignore[assignment]
        self._stop_requested = Signal(self._stage, rate)  # type: ignore[assignment]
        self._proofs = Meeting(self._stage, rate)  # type: ignore[assignment]
        self._actor: Actor | None = None

    def start(self) -> None:
        """Begin."""
        self._actor = self._process.spawn("keeper", self.run)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        end = self._stage.now + (timeout or 0.0)
        while self._stage.current and self._actor and not self._actor.over and self._stage.now < end:
            self._stage.sleep(0.05)


class StagedWorkers(Workers):
    """The real workers; each piece of work is an actor."""

    def __init__(self, process: Process, **named: Any) -> None:
        super().__init__(**named)
        self._process = process

    def _start(self, key: str, work: Callable[[], None]) -> None:
        self._process.spawn(f"work {key[-6:]}", lambda: self._work(key, work))

    def _failed(self, key: str, error: Exception) -> Failure:
        if not isinstance(error, RbdgateError):
            self._process.stage.fail(f"{self._process.name}: a bug in the steps of {key}: {error!r}", error)
        return super()._failed(key, error)


class StagedGuard(Guard):
    """The real guard; it sleeps through looks at which it could only find that the tenure runs."""

    def __init__(self, stage: Stage, rate: float, **named: Any) -> None:
        super().__init__(**named)
        self._stop = self._signal = _GuardPause(stage, rate, self)  # type: ignore[assignment]
        self._runtime.shorter = self._signal.look  # type: ignore[attr-defined]

    def idle(self) -> float:
        """For how many seconds of its clock nothing can become due."""
        now, tenure = self._clock(), self._runtime.read_tenure(self._boot_id)
        if tenure is None or tenure.end + self._timers.guard_grace <= now:
            return max(0.0, self._look_at - now)
        return tenure.end + self._timers.guard_grace - now


class _GuardPause(Signal):
    def __init__(self, stage: Stage, rate: float, guard: StagedGuard) -> None:
        super().__init__(stage, rate)
        self._guard = guard

    def wait(self, timeout: float | None = None) -> bool:
        """One period, at least, and as long as nothing can happen; a tenure cut short ends that."""
        self._waiters.wait(self._guard.idle())
        self._waiters.stage.sleep(timeout or 0.0)
        return self.is_set()

    def look(self) -> None:
        """The tenure is not what it was."""
        self._waiters.rouse()


class StagedProber(Prober):
    """The real prober; itself and each of its reads are actors."""

    def __init__(self, process: Process, rate: float, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._process, self._rate = process, rate

    def start(self) -> None:
        """Begin."""
        self._process.spawn("prober", self.run)

    def run(self) -> None:
        """Probe for as long as the process lives."""
        while True:
            self.probe()
            self._process.stage.sleep(self._period / self._rate)

    def _begin(self, read: Callable[[], None]) -> Any:
        return self._process.spawn("probe", read)
