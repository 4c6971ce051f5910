"""The cycle: observe, plan, apply, report, once a turn, for as long as the agent lives.

Every turn reads both sides anew; the next turn is the retry. A read of etcd that failed is *unknown*: what is served
goes on for as long as the tenure runs, nothing is taken. When the tenure is over the plan is towards nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import structlog
from structlog.contextvars import bind_contextvars

from agent.clock import boottime
from agent.connections import ConnectionsTold
from agent.emptying import NotYet
from agent.following import Work
from agent.guard_watch import GuardWatch
from agent.lasting import Lasting
from agent.links import SteadyLinks
from agent.membership import Membership
from agent.monitoring.counts import Outcome
from agent.monitoring.monitor import Ended, Monitor
from agent.narrator import Look, Narrator
from agent.notify import notify
from agent.reporting import Seen, node_report
from agent.since import Since
from agent.strangers import Strangers
from agent.wakeups import Wake
from agent.word import Fitness
from agent.workers import Workers
from gateway.access import Opened
from gateway.apply import Hands, apply
from gateway.errors import AddressInUse, Blocklisted, RbdgateError, RequestsGivenUp, TenureOver
from gateway.model import NOT_ANSWERED, Address, ClusterView, Connection, FenceIntent, ImageSpec, Instance, Label
from gateway.observed import ANCHOR, Kernel
from gateway.plan import DISCOVERY, Me, Situation, anchor_of, newest_generation, plan, plan_nothing
from gateway.reasons import Obstacle
from gateway.report import NodeReport
from gateway.steps import Claim, ForsakeHold, OpenPath, Plan, Release, RemoveAddresses, Step
from gateway.store.events import wall_time
from gateway.timers import Timers

log = structlog.get_logger("cycle")

GUARD_AGAIN = 0.3
"""How often, in seconds, an agent without a guard looks whether there is one again."""

TENURE_OVER = "its tenure is over: etcd has not confirmed its lease in time"

CUT_AGAIN = 0.3
"""How soon, in seconds, portals that were cut are looked at again."""

BLOCKLIST = "blocklist"
"""The workers' key for the check of the blocklist."""


class Observer(Protocol):
    """Reads this node's kernel; raises when any part of it is unknown."""

    def connections(self, specs: Sequence[ImageSpec]) -> Mapping[str, tuple[Connection, ...]]:
        """The initiators' connections to the portals of each image here, by its uid."""
        ...

    def observe(self, view: ClusterView | None) -> Kernel:
        """The whole node at one look; the view tells which networks and addresses to look for."""
        ...


@dataclass
class Turn:
    """What one turn saw and decided, for the report and the tests."""

    view: ClusterView | None
    kernel: Kernel
    plan: Plan
    opened: Opened = field(default_factory=Opened)
    proven: float = 0.0
    """The end of the tenure that it was planned by, on CLOCK_BOOTTIME."""


@dataclass(frozen=True)
class InTheWay:
    """Why this node can serve no image now, in one word and in one sentence."""

    kind: Obstacle
    text: str


class Cycle:
    """Turns until told to stop. All waiting is in `run`, all I/O in its rooms."""

    def __init__(
        self,
        *,
        node: Label,
        version: str,
        timers: Timers,
        membership: Membership,
        observer: Observer,
        workers: Workers,
        wake: Wake,
        guard_sign: Callable[[], float | None],
        clock: Callable[[], float] = boottime,
        on_turn: Callable[[float], None] = lambda _: None,
        opener: Callable[[ClusterView], Opened] = lambda _: Opened(),
        narrator: Narrator | None = None,
        since_clock: Callable[[], str] = wall_time,
        monitor: Monitor | None = None,
        remark: Callable[[], str] = lambda: "",
    ) -> None:
        """`remark` says what else systemd should hear with the sentence of each turn."""
        self._monitor, self._remark = monitor or Monitor(clock=clock), remark
        self._outcome = Outcome.FAILED
        self._narrator = narrator or Narrator(node, version, lambda _: None, clock=clock)
        self._narrator.on_served = self._monitor.served
        self._node, self._version, self._timers = node, version, timers
        self._membership, self._observer, self._workers = membership, observer, workers
        self._wake, self._clock, self._on_turn = wake, clock, on_turn
        self._guard, self._lasting = GuardWatch(guard_sign, clock), Lasting(timers)
        self._connections = ConnectionsTold(membership.store, observer)
        self._links = SteadyLinks(timers)
        self._leaving, self._since = "", Since(since_clock)
        self._generation = 0
        self._open = opener
        self._strangers = Strangers(timers.retry_first, timers.retry_last)
        self._blocklist_checked = 0.0
        self._published: tuple[int, bytes] | None = None
        self._said = self._unread = ""
        self._stop = threading.Event()

    def stop(self) -> None:
        """End after the present turn, leaving everything as it is for a successor."""
        self._stop.set()
        self._wake.set("stop")

    def run(self) -> None:
        """Turn by turn; a turn that fails is logged and the next one tries again."""
        while not self._stop.is_set():
            pause = self._timers.turn_period
            try:
                turn = self.turn()
                if turn is None or not turn.plan.empty:
                    pause = self._workers.next_retry(self._clock(), pause)
                if turn is not None and turn.plan.first:  # what was cut is looked at again: a lease may wait for it
                    pause = min(pause, CUT_AGAIN)
                if self._membership.storage_obstacle() == NOT_ANSWERED:
                    pause = min(pause, self._timers.storage_probe)
                pause = self._links.next_change(self._clock(), pause)
                pause = self._lasting.next_change(self._clock(), pause)
                if not self._guard.is_there() or self._guard.in_doubt:
                    pause = min(pause, GUARD_AGAIN)
            except RbdgateError as error:
                log.warning("turn failed", error=str(error), kind=type(error).__name__)
                notify(STATUS=f"last turn failed: {error}")
                pause = self._timers.retry_first
            notify(WATCHDOG="1")
            self._on_turn(self._clock())
            self._wake.wait(max(0.05, pause))

    def leave(self, reason: str, bound: float) -> None:
        """Give everything away in order and end the membership, within `bound` seconds: the machine goes down.

        What could not be let go after half of them is cut, and left to be fenced by whoever takes it.
        """
        log.info("leaving", reason=reason)
        self._leaving = reason
        self._membership.leave(reason)
        began = self._clock()
        while self._clock() < began + bound:
            try:
                turn = self.turn()
            except RbdgateError as error:
                log.warning("turn failed", error=str(error), kind=type(error).__name__)
                turn = None
            if self._membership.ended and turn is not None and plan_nothing(turn.kernel).empty:
                return
            lease = self._membership.tenure.lease
            seen = turn.view if turn is not None else None
            gone = seen is not None and not seen.held_under(lease)
            if gone or self._clock() >= began + bound / 2:
                self._membership.resign(reason, lease)
            notify(WATCHDOG="1")
            self._wake.wait(CUT_AGAIN)

    def turn(self) -> Turn | None:
        """One turn; None if this node could not become a member yet."""
        began, self._outcome = self._clock(), Outcome.FAILED
        try:
            return self._turn()
        finally:
            self._monitor.turned(self._outcome, self._clock() - began)

    def _turn(self) -> Turn | None:
        busy = self._workers.busy()  # before anything is read: what ended since then may have been read halfway
        over = self._membership.over  # likewise: until a membership is over, workers go on opening paths
        view = self._view()
        kernel = self._observe(view)
        try:
            self._membership.ensure(view, kernel, self._fitness(view, kernel), over)
        except NotYet as reason:
            turn = Turn(view, kernel, plan_nothing(kernel) if reason.withdraw else Plan((), {}, (), {}))
            self._narrator.not_serving(str(reason), left=not turn.plan.empty)
            self._carry_out(turn)
            self._say(f"not serving: {reason}" + (f" ({self._unread})" if view is None else ""))
            self._outcome = Outcome.NOT_SERVING
            return turn
        tenure = self._membership.tenure
        if not tenure.runs(self._clock()):
            turn = Turn(view, kernel, plan_nothing(kernel))
            self._narrator.not_serving(TENURE_OVER, left=not turn.plan.empty)
        elif view is None:
            self._say(f"serving what is held while the tenure runs: {self._unread}")
            self._outcome = Outcome.UNREAD
            return None
        else:
            self._narrator.turns(view, self._membership.tenure.lease)
            opened = self._open(view)
            situation = Situation(
                view=view,
                kernel=kernel,
                me=self._me(),
                waited=self._lasting.unclaimed(view, self._clock()),
                stagger=self._timers.claim_stagger,
                busy=busy,
                lately=self._lasting.lately(
                    view,
                    self._workers,
                    self._clock(),
                    unguarded=self._unguarded(view),
                    clean=self._is_clean(view, kernel),
                ),
                opened=opened,
                strangers=self._strangers.at(view, self._membership.tenure.lease, self._clock()),
            )
            turn = Turn(view, kernel, plan(situation), opened, tenure.end)
            self._workers.forget_failures_but({*turn.plan.images, *busy, BLOCKLIST})
        self._carry_out(turn)
        if view is not None and self._membership.tenure.runs(self._clock()):
            self._connections.tell(view, kernel, self._membership.tenure.lease)
        self._check_blocklist(turn)
        unreported = self._report(turn, busy)
        if turn.view is None or not self._membership.tenure.runs(self._clock()):
            self._outcome = Outcome.NOT_SERVING
        else:
            self._outcome = Outcome.UNREPORTED if unreported else Outcome.DONE
        return turn

    def _observe(self, view: ClusterView | None) -> Kernel:
        """The kernel as it is, with its links as paths should see them; the kernel's log is read first."""
        requests = self._membership.requests
        if requests is not None:
            requests.read()
        kernel = self._observer.observe(view)
        self._monitor.observed(kernel)
        self._generation = max(self._generation, newest_generation(kernel))
        if requests is not None:
            requests.note({mapping.instance for mapping in kernel.mappings if mapping.generation is not None})
        if view is None:
            return kernel
        now = self._clock()
        self._links.look(kernel.networks, now)
        return replace(kernel, networks=self._links.for_paths(kernel.networks, now))

    def _view(self) -> ClusterView | None:
        try:
            view, statuses = self._membership.store.view_with_statuses()
        except RbdgateError as error:
            log.warning("etcd not read", error=str(error), kind=type(error).__name__)
            self._unread = str(error)
            return None
        self._monitor.read(view, statuses)
        return view

    def _me(self) -> Me:
        lease, rados = self._membership.tenure.lease, self._membership.rados_instance()
        boot, guarded = self._membership.boot_id, self._guard.is_there()
        return Me(self._node, lease, rados, guarded, self._leaving, self._generation, boot)

    def _unguarded(self, view: ClusterView) -> frozenset[str]:
        """The images held here without a guard, so that none of their paths is up."""
        held = view.held_under(self._membership.tenure.lease)
        return frozenset() if self._guard.is_there() else frozenset(held)

    def _is_clean(self, view: ClusterView, kernel: Kernel) -> bool:
        """Whether every request of this node's kernel client was answered, as far as is known."""
        anchor, requests = anchor_of(kernel.mappings, view.settings.anchor_pool), self._membership.requests
        return anchor is None or requests is None or requests.complete(anchor.instance)

    def _carry_out(self, turn: Turn) -> None:
        hands = self._membership.hands(lambda uid, token: self._membership.tenure.covers(uid, token, self._clock()))
        hands = replace(hands, guarded=self._guard.is_fresh, fenced=self._fenced, during=self._narrator.during)
        left = self._carry_out_first(turn.plan, hands)
        for key, steps in turn.plan.images.items():
            spec = turn.view.spec_of(key) if turn.view else None
            name = str(spec.name) if spec else key
            work = self._narrator.work(key, name, steps, turn.plan.reasons.get(key, ""), self._monitor)
            stays = next((left[path.address] for path in spec.paths if path.address in left), None) if spec else None
            if self._workers.submit(key, partial(self._carry_out_image, work, steps, hands, stays)):
                reason = turn.plan.reasons.get(key)
                log.info("planned", image=name, uid=key, reason=reason, steps=_words(steps), trace=work.trace)
        if not self._workers.busy():
            try:
                for step in turn.plan.last:
                    log.info("step", step=type(step).__name__, all=True)
                    apply(step, hands)
            except RbdgateError as error:
                log.warning("clean-up postponed", error=str(error), kind=type(error).__name__)

    def _fenced(self, intents: tuple[FenceIntent, ...]) -> None:
        self._narrator.fenced(intents)
        self._monitor.fenced(intents)

    def _carry_out_first(self, decided: Plan, hands: Hands) -> dict[Address, RbdgateError]:
        """Cut and take addresses off, as far as the kernel does; returns those that may be left, each with the reason.

        Neither stops the other, and neither stops an image: a target that is taken down answers at no address.
        """
        left: dict[Address, RbdgateError] = {}
        for step in decided.first:
            log.info("step", step=type(step).__name__, all=True)
            try:
                apply(step, hands)
            except RbdgateError as error:
                log.warning("the kernel refused; going on", step=type(step).__name__, error=str(error))
                if isinstance(step, RemoveAddresses):
                    left |= dict.fromkeys(step.addresses, error)
        return left

    def _carry_out_image(
        self, work: Work, steps: tuple[Step, ...], hands: Hands, stays: RbdgateError | None = None
    ) -> None:
        """Carry out an image's steps; with `stays`, why one of its addresses may still be here, it is not let go of:
        the next holder would have that address, too, and both would answer for it on the network."""
        bind_contextvars(image=work.name, uid=work.key, trace=work.trace)  # for the rest of this work's own thread
        for step in steps:
            began = self._clock()
            try:
                with work.step(step):
                    if stays is not None and isinstance(step, Release | ForsakeHold):
                        raise stays
                    self._carry_out_step(step, hands)
            except (Blocklisted, RequestsGivenUp) as error:
                self._membership.resign(str(error), hands.lease)
                raise
            except TenureOver:
                self._membership.prove()
                raise
            log.info("step", step=type(step).__name__, seconds=round(self._clock() - began, 3))
            if isinstance(step, Claim):
                self._membership.prove()
        if steps:
            self._wake.set("image")

    def _carry_out_step(self, step: Step, hands: Hands) -> None:
        """Carry out one step of an image; a path whose address others have is left down, and the rest goes on."""
        try:
            apply(step, hands)
        except AddressInUse as error:
            if not isinstance(step, OpenPath):
                raise
            self._strangers.found(step.path.address, str(error), self._clock())
            log.warning("path not opened", path=step.path.tag, error=str(error))

    def _check_blocklist(self, turn: Turn) -> None:
        """Now and then, hold the fences on record and this node's own instances against Ceph's blocklist."""
        now = self._clock()
        connected = self._membership.rados_instance() is not None
        if connected and turn.view is not None and now - self._blocklist_checked >= self._timers.blocklist_check:
            self._blocklist_checked = now
            word, lease = turn.view.live.get(self._node), self._membership.tenure.lease
            own = frozenset(word.instances) if word and word.lease == lease else frozenset()
            self._workers.submit(BLOCKLIST, partial(self._compare_blocklist, frozenset(turn.view.fences), own, lease))

    def _compare_blocklist(self, fenced: frozenset[Instance], own: frozenset[Instance], lease: int) -> None:
        missing = self._membership.check_blocklist(fenced, own, lease)
        self._narrator.fenced_again(missing)
        self._monitor.fenced_again(missing)

    def _report(self, turn: Turn, busy: frozenset[str]) -> str:
        """Tell the turn; returns why etcd has not got its report, if that is so."""
        if turn.view is None:
            self._say("the tenure is over; withdrawing")
            return self._unread
        obstacle = self._obstacle(turn.view, turn.kernel)
        seen = Seen(
            view=turn.view,
            kernel=turn.kernel,
            lease=self._membership.tenure.lease,
            guarded=self._guard.is_there(),
            error=self._workers.error,
            obstacle=obstacle.text if obstacle else "",
            strangers=self._strangers.reasons(),
            opened=turn.opened,
        )
        down = {network.name for network in turn.view.settings.networks} - set(self._links.up())
        report = self._since.dated(node_report(self._node, self._version, seen), down, lambda: self._former(seen))
        if self._membership.tenure.runs(self._clock()):
            self._narrator.see(Look(seen.view, report, busy, self._workers.busy(), self._workers.error))
        kind = obstacle.kind if obstacle else None
        counts = self._connections.counts
        self._monitor.reported(Ended(turn.view, turn.kernel, turn.plan, busy, report, counts, kind, turn.proven))
        unreported = self._publish(report)
        self._say(report.sentence + (f"; not reported: {unreported}" if unreported else ""))
        return unreported

    def _publish(self, report: NodeReport) -> str:
        """Write a report that is new; returns why that could not be done, empty if etcd has it."""
        value = (self._membership.tenure.lease, report.to_json())
        if value != self._published:
            try:
                self._membership.publish(value[1])
            except RbdgateError as error:
                log.warning("report not published", error=str(error))
                return str(error)
            self._published = value
        return ""

    def _former(self, seen: Seen) -> NodeReport | None:
        """What a former agent here said under the lease that this one took up; None if that is not to be had."""
        word = seen.view.live.get(self._node)
        if word is None or word.lease != seen.lease:
            return None  # a new lease: nobody has said anything under it
        try:
            return NodeReport.from_json(self._membership.store.statuses()[self._node])
        except (RbdgateError, KeyError):
            return None

    def _fitness(self, view: ClusterView | None, kernel: Kernel) -> Fitness:
        obstacle = self._obstacle(view, kernel)
        return Fitness(self._links.up(), obstacle.text if obstacle else "")

    def _obstacle(self, view: ClusterView | None, kernel: Kernel) -> InTheWay | None:
        """Why this node can serve no image now, in one sentence and in one word; None if it can.

        That Ceph does not answer comes before all else: other nodes act on that word.
        """
        storage = self._membership.storage_obstacle()
        if storage == NOT_ANSWERED:
            return InTheWay(Obstacle.STORAGE, storage)
        if self._leaving:
            return InTheWay(Obstacle.LEAVING, self._leaving)
        if not self._guard.is_there():
            return InTheWay(Obstacle.GUARD, "the guard (rbdgate-guard.service) is not running")
        if storage is not None:
            return InTheWay(Obstacle.STORAGE, storage)
        if view is not None and anchor_of(kernel.mappings, view.settings.anchor_pool) is None:
            starting = "it is starting, and has no client of Ceph in its kernel yet"
            return InTheWay(Obstacle.STARTING, self._workers.error(ANCHOR) or starting)
        discovery = self._workers.error(DISCOVERY)
        return InTheWay(Obstacle.DISCOVERY, discovery) if discovery else None

    def _say(self, sentence: str) -> None:
        remark = self._remark()
        notify(STATUS=f"{sentence}; {remark}" if remark else sentence)
        if sentence != self._said:
            log.info("turn", sentence=sentence)
            self._said = sentence


def _words(steps: tuple[Step, ...]) -> str:
    return ",".join(type(step).__name__ for step in steps)
