"""The stage: one clock, one thread, and actors that switch only where their code calls out. Deterministic.

The product's code is not written as generators, so each actor is a greenlet: it runs until it reaches a *point* (a
call to etcd, to RADOS or to the kernel) or waits, and the stage then runs whatever is due next. Between two points of
one actor anything may happen to it: others act, its process is stopped, killed or held up, its machine is paused.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Protocol

from greenlet import GreenletExit, getcurrent, greenlet


class Violation(AssertionError):
    """Something that must never be true was; or an actor ended in an error that none of the product's parts catches."""


class Host(Protocol):
    """Whose process an actor belongs to."""

    @property
    def paused(self) -> bool:
        """Whether the machine stands still."""
        ...


class Process:
    """A process of a node: its actors live, stand still and die with it."""

    def __init__(self, stage: Stage, host: Host, name: str) -> None:
        self.stage, self.host, self.name = stage, host, name
        self.stopped = self.dead = False
        self.actors: list[Actor] = []

    def spawn(self, name: str, body: Callable[[], None]) -> Actor:
        """Begin an actor; it runs when its turn comes."""
        actor = Actor(self, name, body)
        self.actors = [a for a in self.actors if not a.over]
        self.actors.append(actor)
        if not self.dead:
            self.stage.wake(actor, self.stage.latency(0.002))
        return actor

    def kill(self) -> None:
        """End the process where it stands; called from outside its actors."""
        self.dead = True
        for actor in self.actors:
            actor.end()

    def thaw(self) -> None:
        """Let go on what came due while the process, its machine or one of its actors stood still."""
        for actor in self.actors:
            if actor.pending and not actor.frozen:
                actor.pending = False
                self.stage.wake(actor, 0.0)


class Actor:
    """One line of the product's code under way."""

    def __init__(self, process: Process, name: str, body: Callable[[], None]) -> None:
        self.process, self.name = process, name
        self.held = self.pending = self.over = False
        self.ticket = 0
        self._body = body
        self._greenlet = greenlet(self._run)

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self.held or self.process.stopped or self.process.host.paused

    def is_alive(self) -> bool:
        """As a thread's."""
        return not self.over

    def resume(self) -> None:
        """Let it run to its next point; only the stage does."""
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()

    def end(self) -> None:
        """End it where it stands."""
        if not self.over:
            self.over = True
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(GreenletExit)

    def _run(self) -> None:
        try:
            self._body()
        except GreenletExit:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever ends an actor is to be told, not to end the stage
            self.process.stage.fail(f"{self.process.name} {self.name} ended in {type(error).__name__}: {error}", error)
        self.over = True


class Stage:
    """Runs what is due, in order of time; `check` is asked after each step whether all is well."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.current: Actor | None = None
        self.check: Callable[[], None] = lambda: None
        self.passing: Callable[[Actor, str], bool] = lambda _actor, _what: False
        """Asked at every point; true ends the present run there."""
        self.failure: Violation | None = None
        self.changes = 0
        """Grows with whatever `check` might have to look at anew."""
        self._due: list[tuple[float, int, Actor | Callable[[], None]]] = []
        self._count = 0
        self._until = 0.0
        self._end_run = False
        self._main = getcurrent()

    def latency(self, most: float) -> float:
        """How long something takes, in seconds."""
        return self.random.uniform(0.05, 1.0) * most

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Do something at that time."""
        self._count += 1
        heapq.heappush(self._due, (time, self._count, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something so much later."""
        self.at(self.now + seconds, act)

    def wake(self, actor: Actor, seconds: float) -> None:
        """Let the actor go on so much later, and at no other time."""
        self._count += 1
        actor.ticket = self._count
        heapq.heappush(self._due, (self.now + seconds, self._count, actor))

    def point(self, what: str, most: float = 0.02) -> None:
        """A place where the running actor calls out: it takes a while, and anything may happen meanwhile."""
        actor = self.current
        if actor is None:
            return
        if self.passing(actor, what):
            self._end_run = True
        self.check()
        then = self.now + self.latency(most)
        if (
            not self._end_run
            and self.failure is None
            and then < self._until
            and (not self._due or self._due[0][0] > then)
        ):
            self.now = then
            self.check()
            if self.failure is None:
                return
        self.wake(actor, then - self.now)
        self.park()

    def sleep(self, seconds: float) -> None:
        """Let the running actor do nothing for so long."""
        actor = self.current
        if actor is not None:
            self.wake(actor, seconds)
            self.park()

    def park(self) -> None:
        """Let the running actor stand until somebody wakes it."""
        self._main.switch()

    def run(self, seconds: float) -> None:
        """Let so much time pass, or less if a watched point is reached; raises Violation at once."""
        self._until, self._end_run = self.now + seconds, False
        while self._due and self._due[0][0] <= self._until and not self._end_run:
            time, ticket, item = heapq.heappop(self._due)
            if isinstance(item, Actor):
                if item.over or item.ticket != ticket:
                    continue
                if item.frozen:
                    item.pending = True
                    continue
            self.now = max(self.now, time)
            self._step(item)
            self.check()
            self.raise_failure()
        if not self._end_run:
            self.now = self._until
        self.check()
        self.raise_failure()

    def change(self) -> None:
        """Something is not what it was."""
        self.changes += 1

    def fail(self, why: str, cause: BaseException | None = None) -> None:
        """Remember the first thing that went wrong; the run ends with it."""
        if self.failure is None:
            self.failure = Violation(why)
            self.failure.__cause__ = cause

    def _step(self, item: Actor | Callable[[], None]) -> None:
        if not isinstance(item, Actor):
            item()
            return
        self.current = item
        try:
            item.resume()
        finally:
            self.current = None

    def raise_failure(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.failure is not None:
            raise self.failure
