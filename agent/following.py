"""Following one image's steps as a worker takes them, for somebody who listens and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from gateway.steps import Step, Teardown, Unmap


class Listener(Protocol):
    """Who hears what becomes of the steps; it raises nothing."""

    def now(self) -> float:
        """The time, in seconds."""
        ...

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


class Work:
    """One image's steps of one turn, followed as they are taken."""

    def __init__(self, listener: Listener, key: str, name: str, steps: tuple[Step, ...], why: str) -> None:
        self._listener, self.key, self.name, self.why = listener, key, name, why
        self.began = listener.now()
        ends = steps and isinstance(steps[-1], Teardown | Unmap)
        self._last = steps[-1] if ends else None

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Around the taking of one step; what is raised goes on."""
        began = self._listener.now()
        self._listener.begins(self, step)
        try:
            yield
        except Exception as error:
            self._listener.failed(self, step, error)
            raise
        self._listener.did(self, step, began)
        if step is self._last:
            self._listener.withdrew(self)
