"""Following one image's steps as a worker takes them, for somebody who listens and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from gateway.steps import Step, Teardown, Unmap


class Listener(Protocol):
    """Who hears what becomes of the steps; it raises nothing."""

    def begins(self, work: Work, step: Step) -> None:
        """A step is about to be taken."""
        ...

    def did(self, work: Work, step: Step, began: float) -> None:
        """It was taken."""
        ...

    def failed(self, work: Work, step: Step, error: Exception) -> None:
        """It failed."""
        ...

    def withdrew(self, work: Work) -> None:
        """The last step was taken, and all there was to do was to withdraw."""
        ...


class Timekeeper(Listener, Protocol):
    """The listener by whose clock the others hear, too."""

    def now(self) -> float:
        """The time, in seconds."""
        ...


class Work:
    """One image's steps of one turn, followed as they are taken."""

    def __init__(
        self,
        listener: Timekeeper,
        key: str,
        name: str,
        steps: tuple[Step, ...],
        why: str,
        *,
        trace: str = "",
        others: tuple[Listener, ...] = (),
    ) -> None:
        self._now, self._listeners = listener.now, (listener, *others)
        self.key, self.name, self.why, self.trace = key, name, why, trace
        self.began = listener.now()
        ends = steps and isinstance(steps[-1], Teardown | Unmap)
        self._last = steps[-1] if ends else None

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Around the taking of one step; what is raised goes on."""
        began = self._now()
        for each in self._listeners:
            each.begins(self, step)
        try:
            yield
        except Exception as error:  # it goes on below, whatever it is: listeners hear of every failure
            for each in self._listeners:
                each.failed(self, step, error)
            raise
        for each in self._listeners:
            each.did(self, step, began)
            if step is self._last:
                each.withdrew(self)
