"""The guard: outlives the agent and takes this node's portals down when the tenure is over.

It reads the tenure's end from `/run`, and when that has passed (and a short grace for the agent to do it itself) it
cuts first, for all portals at once, and then withdraws image by image until the kernel holds nothing of ours. Whether
the agent is dead, stopped, hung or just slow does not matter to it. It never starts to serve anything.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from structlog.contextvars import bind_contextvars

from agent.clock import boottime
from agent.monitoring.guard_file import GuardFigures
from agent.notify import notify
from agent.watchdog import Signs
from agent.workers import Workers
from gateway.errors import Conflict, RbdgateError, Stuck
from gateway.events import trace_of
from gateway.kernel import NodeKernel
from gateway.lio.lock import LockHolder, start_time
from gateway.model import Address
from gateway.observed import Kernel
from gateway.plan import plan_nothing
from gateway.runtime import RuntimeDirectory
from gateway.steps import Step, Teardown, Uncut, Unmap, UnmapAnchor
from gateway.timers import Timers

log = structlog.get_logger("guard")

SIGN_PERIOD = 1.0
"""How often the guard says that it lives, in seconds; the agent calls it dead after five of them."""

LOOK_AGAIN = 5.0
"""How often a node that may not serve and holds nothing is looked at again, in seconds."""


class Portals(Protocol):
    """What the last act needs of the kernel."""

    def portal_addresses(self) -> frozenset[Address]:
        """The portal addresses of ours on this node."""
        ...

    def cut(self, addresses: frozenset[Address]) -> None:
        """Let no packet leave from these addresses any more."""
        ...

    def remove_addresses(self, addresses: frozenset[Address]) -> None:
        """Take these addresses off."""
        ...


class Mount(Protocol):
    """The trap's mount, as far as the guard sees to it."""

    @property
    def settled(self) -> bool:
        """Whether nothing is on the air whose reservations may change without being caught."""
        ...

    def open(self) -> None:
        """Mount it for the first time and hold what is exported against what is recorded."""
        ...

    def look(self) -> None:
        """Mount it anew if it is gone."""
        ...

    def requests(self) -> int:
        """How many requests the kernel made of it."""
        ...


class Guard:
    """Watches one node's tenure, and that changes of reservations are caught."""

    def __init__(
        self,
        *,
        boot_id: str,
        timers: Timers,
        runtime: RuntimeDirectory,
        kernel: NodeKernel,
        workers: Workers,
        trap: Mount | None = None,
        figures: GuardFigures | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._figures = figures or GuardFigures(clock, 0.0)
        self._boot_id, self._timers, self._runtime = boot_id, timers, runtime
        self._kernel, self._workers, self._clock = kernel, workers, clock
        self._trap, self._trap_error = trap, ""
        self._traces: dict[str, str] = {}
        """The word of each image's last claim here, for the log: a device to be unmapped does not bear it any more."""
        self._stop = threading.Event()
        self._acting = self._cut = False
        self._signed = 0.0
        self._look_at = 0.0
        self.looked = -math.inf
        """When the tenure was last looked at; what is done about one that is over may take long."""

    def stop(self) -> None:
        """End the watch; the unit's ExecStopPost cuts, for nobody watches then."""
        self._stop.set()

    def run(self) -> None:
        """Look, act if need be, sleep a little, until told to stop."""
        self._see_to_trap(first=True)
        notify(READY="1", STATUS="watching")
        while not self._stop.is_set():
            now = self._clock()
            self._see_to_trap()
            if now - self._signed >= SIGN_PERIOD:
                self._sign(now)
            try:
                self.look(now)
            except RbdgateError as error:
                log.warning("withdrawal goes on", error=str(error), kind=type(error).__name__)
            self._stop.wait(self._timers.guard_period)
        self._runtime.drop_guard_sign()

    def _see_to_trap(self, *, first: bool = False) -> None:
        """Without the trap nothing that keeps reservations is built here; what keeps none is served all the same."""
        if self._trap is None:
            return
        try:
            if first:
                self._trap.open()
            else:
                self._trap.look()
            self._trap_error = ""
        except (RbdgateError, OSError) as error:
            if str(error) != self._trap_error:
                log.warning("reservations are not caught", error=str(error))
            self._trap_error = str(error)

    def _sign(self, now: float) -> None:
        """Say that the guard lives. Without its sign the agent closes paths; a guard that ends for it cuts them all."""
        self._signed = now
        notify(WATCHDOG="1")
        try:
            if self._trap is None or self._trap.settled:
                self._runtime.write_guard_sign(now)
            self._tell(now)
        except OSError as error:
            log.warning("sign of life not written", path=str(self._runtime.path), error=str(error))

    def _tell(self, now: float) -> None:
        caught = self._trap is not None and not self._trap_error
        requests = self._trap.requests() if self._trap is not None else 0
        self._runtime.write_figures(self._figures.text(now, cut=self._cut, mounted=caught, requests=requests))

    def look(self, now: float) -> None:
        """One look at the tenure, and one act of withdrawal if it is over."""
        self.looked = now
        if self._may_serve(now):
            if self._acting:
                log.info("tenure runs again")
            if self._cut:
                notify(STATUS="watching")
            self._acting = self._cut = False
            self._look_at = 0.0
            return
        if not self._cut:
            notify(STATUS="the tenure is over; withdrawing")
        self._cut = True
        if now < self._look_at:
            return
        self._cut_all()
        kernel = self._kernel.observe(None)
        if self._withdraw(kernel):
            self._look_at = now + LOOK_AGAIN
            notify(STATUS="the tenure is over and nothing is served here")

    def signs(self) -> Signs:
        """What the watchdog is fed by."""
        tenure, turned = self._runtime.read_tenure(self._boot_id), self._runtime.cycle_sign()
        return Signs(
            tenure_end=-math.inf if tenure is None else tenure.end + self._timers.guard_grace,
            looked=self.looked,
            turned=-math.inf if turned is None else turned,
        )

    def silent(self) -> bool:
        """Whether no portal address of ours is on this node, read now."""
        return not self._kernel.portal_addresses()

    def _may_serve(self, now: float) -> bool:
        tenure = self._runtime.read_tenure(self._boot_id)
        return tenure is not None and now < tenure.end + self._timers.guard_grace

    def _cut_all(self) -> None:
        """Cut, then take the addresses off; a kernel that refuses one is asked for the other, and the rest goes on."""
        addresses = self._kernel.portal_addresses()
        if not addresses:
            return
        if not self._acting:
            self._figures.cut()
        self._acting = True
        refusals = []
        for act in (self._kernel.cut, self._kernel.remove_addresses):
            try:
                act(addresses)
            except RbdgateError as error:
                refusals.append(error)
        log.warning("tenure over: cut", portals=len(addresses))  # after it, for a log can keep whoever writes waiting
        for refusal in refusals:
            log.warning("the kernel refused; going on", error=str(refusal), kind=type(refusal).__name__)

    def _withdraw(self, kernel: Kernel) -> bool:
        """Go on towards nothing; returns whether nothing is left."""
        plan = plan_nothing(kernel)
        self._traces |= {device.name.uid: trace_of(device.name.token) for device in kernel.devices}
        for key, steps in plan.images.items():
            self._workers.submit(key, partial(self._take_down, key, steps, self._traces.get(key, "")))
        if not plan.images and not self._workers.busy():
            for step in plan.last:
                if isinstance(step, Uncut):
                    self._kernel.uncut(step.addresses)
        return plan.empty

    def _take_down(self, key: str, steps: tuple[Step, ...], trace: str) -> None:
        """Withdraw one image, as far as its steps go; `trace` is that of its takeover by whoever has it next."""
        bind_contextvars(uid=key, trace=trace)  # for the rest of this work's own thread
        began = self._clock()
        for step in steps:
            if self._may_serve(self._clock()):
                return  # the agent proved its lease meanwhile and serves again: what comes next would hit that
            log.info("step", step=type(step).__name__)
            try:
                self._take(step)
            except Stuck:
                self._end_lock_holder()
                raise
        log.warning("withdrawn", reason="the tenure is over", seconds=round(self._clock() - began, 3))

    def _take(self, step: Step) -> None:
        if isinstance(step, Teardown):
            self._kernel.teardown(step.uid, step.iqns, self._expect_no_tenure)
        elif isinstance(step, Unmap | UnmapAnchor):
            self._kernel.unmap(step.number)

    def _expect_no_tenure(self) -> None:
        """Refuse to go on where the agent has proved its lease while a device kept this waiting: it serves again."""
        if self._may_serve(self._clock()):
            raise Conflict("the tenure runs again: what is exported stays")

    def _end_lock_holder(self) -> None:
        """End a process that keeps the lock on configfs past the tenure: stopped or hung, it may not serve anyway."""
        holder = self._kernel.lock.holder()
        if holder is None or holder.pid == os.getpid() or not _is_agent(holder):
            return
        log.error("ending the process that keeps the configfs lock", pid=holder.pid)
        try:
            os.kill(holder.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _is_agent(holder: LockHolder) -> bool:
    """Whether this very process still runs and is one of ours: its number may be another's by now."""
    try:
        command = Path(f"/proc/{holder.pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"rbdgate" in command and start_time(holder.pid) == holder.start


def withdraw_once(kernel: Portals, clock: Callable[[], float], bound: float) -> None:
    """Cut every portal of this node at once and take the addresses off; the guard's unit runs this when it stops.

    What the kernel refuses is tried until the bound, in seconds; the last refusal is raised.
    """
    deadline = clock() + bound
    while True:
        refused: RbdgateError | None = None
        try:
            addresses = kernel.portal_addresses()
            for act in (kernel.cut, kernel.remove_addresses) if addresses else ():
                try:
                    act(addresses)
                except RbdgateError as error:
                    refused = error
            if not kernel.portal_addresses():
                return
        except RbdgateError as error:
            refused = error
        if clock() >= deadline:
            raise refused or Stuck(f"portal addresses are still on this node after {bound:g} s")
