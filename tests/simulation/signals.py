"""The few things of `threading` that the agent waits on, on the stage's clock instead."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from agent.wakeups import Wake
from tests.simulation.stage import Actor, Stage


class Waiters:
    """Actors that wait for one thing."""

    def __init__(self, stage: Stage, rate: float) -> None:
        self.stage, self._rate = stage, rate
        self._waiting: list[Actor] = []

    def wait(self, timeout: float | None) -> None:
        """Stand until `rouse`, or for so many seconds of the node's own clock."""
        actor = self.stage.current
        if actor is None:
            return
        self._waiting.append(actor)
        actor.ticket = -1
        if timeout is not None:
            self.stage.wake(actor, max(0.0, timeout) / self._rate)
        self.stage.park()
        if actor in self._waiting:
            self._waiting.remove(actor)

    def rouse(self) -> None:
        """Let all of them go on."""
        waiting, self._waiting = self._waiting, []
        for actor in waiting:
            self.stage.wake(actor, 0.0)


class Signal:
    """As `threading.Event`."""

    def __init__(self, stage: Stage, rate: float) -> None:
        self._waiters, self._on = Waiters(stage, rate), False

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._on

    def set(self) -> None:
        """Set it."""
        self._on = True
        self._waiters.rouse()

    def clear(self) -> None:
        """Take it back."""
        self._on = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set."""
        if not self._on:
            self._waiters.wait(timeout)
        return self._on


class Meeting:
    """As `threading.Condition`, without a lock: nobody is interrupted between two points."""

    def __init__(self, stage: Stage, rate: float) -> None:
        self._stage, self._rate, self._waiters = stage, rate, Waiters(stage, rate)

    def __enter__(self) -> None:
        """Nothing to take."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back."""

    def notify_all(self) -> None:
        """Let all who wait look again."""
        self._waiters.rouse()

    def wait_for(self, true: Callable[[], bool], timeout: float) -> bool:
        """Wait until it is true, for so many seconds of the node's clock at most."""
        end = self._stage.now + timeout / self._rate
        while not true() and self._stage.now < end:
            self._waiters.wait((end - self._stage.now) * self._rate)
        return true()


class StagedWake(Wake):
    """What ends the cycle's wait, on the stage's clock."""

    def __init__(self, stage: Stage, rate: float) -> None:
        super().__init__()
        self._signal = Signal(stage, rate)

    def set(self, reason: str) -> None:
        """End the wait."""
        self._signal.set()

    def wait(self, timeout: float) -> tuple[str, ...]:
        """Wait, at most so many seconds."""
        self._signal.wait(timeout)
        self._signal.clear()
        return ()
