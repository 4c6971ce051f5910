"""The narrator: finds out, from the steps this node takes and from what its turns see, what is worth an event.

Each thing is told once, when it changes: never per turn and never per retry. It only listens: it changes nothing, and
nothing is decided on what it remembers. What it tells goes to a chronicle, which never blocks.

A death is told by the first by name of the nodes that are left. The others keep it in mind for a while: if that one
goes too, as in a power cut of two, the next one tells both. Where that one had told after all, the death is told twice.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from agent.clock import boottime
from agent.following import Listener, Work
from agent.takeover import Takeover
from gateway.errors import Blocklisted, Conflict, FenceUnconfirmed, RequestsGivenUp, TenureOver
from gateway.events import Event, Kind, trace_of
from gateway.model import Amendment, ClusterView, FenceIntent, ImageSpec, Instance, Label
from gateway.observed import ANCHOR
from gateway.phases import Phase
from gateway.report import ImageReport, NodeReport, PathReport
from gateway.runtime import RuntimeDirectory
from gateway.steps import Claim, Forget, ForsakeHold, Release, Step, TakeHold
from gateway.store.events import wall_time
from gateway.timers import Timers

OBSTACLE_LASTS = 10.0
"""An obstacle to taking images is told when it has lasted so long, in seconds: each start begins with some."""

REASONS = 5
"""How many different reasons of one series of failures are told."""


@dataclass(frozen=True)
class Look:
    """How one turn of a member has found its images.

    Those that were `busy` when it began are half seen; those `at_work` since then have no last error yet. `error` tells
    why an image's last work failed, None if it did not.
    """

    view: ClusterView
    report: NodeReport
    busy: AbstractSet[str]
    at_work: AbstractSet[str]
    error: Callable[[str], str | None]


@dataclass(frozen=True)
class _Seen:
    """What the last look saw of this node's images."""

    exported: Mapping[str, int] = field(default_factory=dict)
    paths: Mapping[str, tuple[PathReport, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Departure:
    """A node that is gone: what there is to tell of it, since when, and who was left to tell it."""

    event: Event
    since: float
    teller: Label


class Narrator:
    """One node's; `tell` takes the events. Usable from the cycle and its workers at once; `clock` in seconds.

    `adopted` is the lease that this agent took over from a former one, 0 if none; what that one last saw is in
    `runtime`. `wall` is the time as events carry it.
    """

    def __init__(
        self,
        node: Label,
        version: str,
        tell: Callable[[Event], None],
        *,
        adopted: int = 0,
        runtime: RuntimeDirectory | None = None,
        lease_ttl: float = Timers.lease_ttl,
        clock: Callable[[], float] = boottime,
        wall: Callable[[], str] = wall_time,
    ) -> None:
        self.on_served: Callable[[str, Takeover], None] = lambda _uid, _takeover: None
        """Hears of each image that was brought up here, and of what that took."""
        self._node, self._version, self._tell, self._adopted, self._clock = node, version, tell, adopted, clock
        self._runtime, self._lease_ttl, self._wall = runtime, lease_ttl, wall
        self._lock = threading.RLock()
        self._names: dict[str, str] = {}
        self._lease: int | None = None
        self._away = ""
        self._live: frozenset[Label] = frozenset()
        self._remembered: tuple[int, frozenset[Label]] | None = None
        self._departed: dict[Label, _Departure] = {}
        self._held: dict[str, int] = {}
        self._mine: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._unheld: dict[str, float] = {}
        self._seen = _Seen()
        self._fresh = False
        self._takeovers: dict[str, Takeover] = {}
        self._released: set[str] = set()
        self._failing: dict[str, set[str]] = {}
        self._fenced: dict[str, tuple[int, frozenset[Instance]]] = {}
        self._amended: dict[str, int] = {}
        self._obstacle_since: float | None = None
        self._obstacle_told = False

    def work(self, key: str, name: str, steps: tuple[Step, ...], why: str, *others: Listener) -> Work:
        """What follows one image's steps of one turn, for others as well; `why` they are taken."""
        with self._lock:
            claims = any(isinstance(step, Claim) for step in steps)
            trace = self._trace_of_next(key) if claims else self._trace(key)
        return Work(self, key, name, steps, why, trace=trace, others=others)

    @contextmanager
    def during(self, uid: str, phase: Phase) -> Iterator[None]:
        """Around what is a phase of an image's takeover by itself, within one of its steps."""
        began = self._clock()
        yield
        with self._lock:
            if uid in self._takeovers:
                self._takeovers[uid].within(phase, self._clock() - began)

    def fenced(self, intents: tuple[FenceIntent, ...]) -> None:
        """These clients are fenced, and that was confirmed; told once for each takeover."""
        with self._lock:
            for uid, token in {(intent.image_uid, intent.token) for intent in intents}:
                mine = [intent for intent in intents if intent.image_uid == uid]
                victims = frozenset(intent.instance for intent in mine)
                if self._fenced.get(uid) != (token, victims):
                    self._fenced[uid] = (token, victims)
                    self._tell_fence(uid, token, mine)

    def fenced_again(self, instances: AbstractSet[Instance]) -> None:
        """These fences had vanished from Ceph's blocklist, and were put there again."""
        if instances:
            why = "they had vanished from there, and their victims are still on record"
            self._tell(Event(Kind.FENCE, f"put on Ceph's blocklist again: {_listed(instances)}", why))

    def not_serving(self, reason: str, *, left: bool) -> None:
        """This node may serve nothing now; `left` says whether anything of an export was still there."""
        with self._lock:
            if self._away or (self._lease is None and self._adopted == 0):
                return
            self._away = reason
            text = "may not serve now" if left else "may not serve now, and nothing is left here that did"
            self._tell(Event(Kind.NODE, text, reason, node=str(self._node)))
            self._seen, self._takeovers, self._unheld = _Seen(), {}, {}

    def turns(self, view: ClusterView, lease: int) -> None:
        """Tell what has changed in the cluster; call it before the turn's steps are taken, so that order is kept."""
        with self._lock:
            self._names |= {spec.uid: str(name) for name, spec in view.images.items()}
            word = view.live.get(self._node)
            if self._lease is None and lease == self._adopted and (word is None or word.lease != lease):
                return  # taken up, but gone: the keeper is about to find that out
            self._fresh = self._see_membership(lease)
            self._see_others(view, lease)
            held = view.held_under(lease)
            if not self._fresh:
                self._see_claims(held)
            self._held = held
            self._mine |= held
            self._see_holders(view)

    def see(self, look: Look) -> None:
        """Tell how the images held here have changed since the last look."""
        with self._lock:
            self._see_images(look)
            self._see_failures(look)
            self._see_obstacle(look.report.obstacle)

    def begins(self, work: Work, step: Step) -> None:
        """A step is about to be taken: a turn can see what it does in etcd before it has come back."""
        with self._lock:
            if isinstance(step, Claim):
                now, detected = self._clock(), self._unheld.get(work.key)
                self._takeovers[work.key] = Takeover(now, reason=step.reason, trace=work.trace, detected=detected)
            elif Takeover.has(step):
                self._takeovers.setdefault(work.key, Takeover(self._clock(), trace=work.trace))
            if isinstance(step, Release):
                self._released.add(work.key)

    def did(self, work: Work, step: Step, began: float) -> None:
        """A step of an image was taken."""
        now = self._clock()
        with self._lock:
            if Takeover.has(step):
                self._takeovers.setdefault(work.key, Takeover(began, trace=work.trace)).count(step, began, now)
            if isinstance(step, ForsakeHold):
                text = "had lost it, and let go of what named it as the holder"
                self._tell(self._of(work.key, Kind.IMAGE, text, work.why, trace=work.trace))
            if isinstance(step, TakeHold | Forget) and step.amendment is not None:
                self._tell_amendment(work.key, step.token, step.amendment)
            if isinstance(step, Release):
                trace, took = trace_of(step.token), now - work.began
                self._tell(self._of(work.key, Kind.IMAGE, "let go of it", work.why, trace=trace, seconds=took))

    def withdrew(self, work: Work) -> None:
        """What was left of an image here is gone, and nothing follows."""
        if not self._away:
            text = f"withdrew what there was of {work.name}"
            took = self._clock() - work.began
            self._tell(self._of(work.key, Kind.IMAGE, text, work.why, trace=work.trace, seconds=took))

    def failed(self, work: Work, step: Step, error: Exception) -> None:
        """A step failed; of one series each reason is told once, whatever numbers stand in it."""
        with self._lock:
            if isinstance(step, Release):
                self._released.discard(work.key)
            if work.key in self._takeovers:
                self._takeovers[work.key].failed()
        if isinstance(error, TenureOver | Blocklisted | RequestsGivenUp):
            return  # told as the node's: it may not serve now
        if work.key == ANCHOR:
            return  # told as the node's as well, as what keeps it from taking images, when it lasts
        if isinstance(error, Conflict) and isinstance(step, Claim):
            return  # another node was faster, which is how it is meant to be
        reason = str(error) or type(error).__name__
        with self._lock:
            told = self._failing.setdefault(work.key, set())
            kind = re.sub(r"\d+", "#", reason)
            if kind in told or len(told) >= REASONS:
                return
            told.add(kind)
            about = Kind.FENCE if isinstance(error, FenceUnconfirmed) else Kind.FAULT
            words = "not fenced, so not served" if isinstance(error, FenceUnconfirmed) else _failure(step)
            self._tell(self._of(work.key, about, words, reason, trace=work.trace))

    def now(self) -> float:
        """The narrator's clock, in seconds."""
        return self._clock()

    def _see_membership(self, lease: int) -> bool:
        """Tell how this node came to its present lease; True if what it holds now was its former agent's to tell."""
        node, trace = str(self._node), f"lease {lease:x}"
        new = lease != self._lease
        adopted = self._lease is None and lease == self._adopted and not self._away
        if adopted:
            why = f"a new agent, version {self._version}, runs here"
            self._tell(Event(Kind.NODE, "took up its lease and what it serves", why, node=node, trace=trace))
            self._live = self._runtime.read_live(lease) if self._runtime else frozenset()
        elif new:
            before = self._away or (self._adopted and self._lease is None and "its former agent's lease ran out")
            why = f"before: {before}" if before else f"its agent, version {self._version}, started"
            self._tell(Event(Kind.NODE, "joined", why, node=node, trace=trace))
            self._held, self._seen, self._takeovers = {}, _Seen(), {}
        elif self._away:
            self._tell(Event(Kind.NODE, "may serve again", node=node, trace=trace))
        self._lease, self._away = lease, ""
        return adopted

    def _see_others(self, view: ClusterView, lease: int) -> None:
        """Of the nodes that are left, the first by name tells who is gone, and what one that is gone left untold."""
        live, now = frozenset(view.live), self._clock()
        if self._node not in live:
            return
        for gone in sorted(self._live - live):
            why = "its lease ran out or was given back: the agent, the machine or its way to etcd is down"
            event = Event(Kind.NODE, "is not live any more", why, node=str(gone), time=self._wall())
            self._departed[gone] = _Departure(event, now, teller=gone)
        for gone, departure in list(self._departed.items()):
            if gone in live or now - departure.since >= 2 * self._lease_ttl:
                del self._departed[gone]
            elif departure.teller not in live:
                self._departed[gone] = replace(departure, teller=min(live))
                if min(live) == self._node:
                    self._tell(departure.event)
        self._live = live
        if self._runtime is not None and self._remembered != (lease, live):
            self._remembered = (lease, live)
            self._runtime.write_live(lease, live)

    def _see_images(self, look: Look) -> None:
        reports = {image.uid: image for image in look.report.images}
        exported, paths = {}, {}
        for uid, token in self._held.items():
            image, was = reports.get(uid), self._seen.exported.get(uid) == token
            if image is None or uid in look.busy:  # as it was
                if was:
                    exported[uid], paths[uid] = token, self._seen.paths.get(uid, ())
                continue
            if not self._fresh:
                self._see_export(look.view.spec_of(uid), image, was=was)
            if image.exported:
                exported[uid], paths[uid] = token, image.paths
        self._seen = _Seen(exported, paths)

    def _see_claims(self, held: Mapping[str, int]) -> None:
        for uid, token in held.items():
            if self._held.get(uid) != token:
                reason = self._takeovers[uid].reason if uid in self._takeovers else ""
                trace = self._trace_of_next(uid) or trace_of(token)
                if uid in self._takeovers:
                    trace = self._takeovers[uid].trace = self._takeovers[uid].trace or trace
                self._tell(self._of(uid, Kind.IMAGE, "claimed", reason, trace=trace))
        for uid in set(self._held) - set(held):
            self._takeovers.pop(uid, None)
            if uid not in self._released:
                why = "its claim is gone: the lease has ended, or somebody deleted it"
                self._tell(self._of(uid, Kind.FAULT, "lost it", why, trace=trace_of(self._held[uid])))
            self._released.discard(uid)

    def _see_export(self, spec: ImageSpec | None, image: ImageReport, *, was: bool) -> None:
        takeover, trace = self._takeovers.get(image.uid), self._trace(image.uid)
        if image.exported and takeover is not None and takeover.built:
            del self._takeovers[image.uid]
            down = "; ".join(f"path {path.tag} is down: {path.reason}" for path in image.paths if not path.up)
            text = f"serves it, {sum(path.up for path in image.paths)} of {len(image.paths)} paths up ({takeover})"
            event = self._of(image.uid, Kind.IMAGE, text, down, trace=trace, seconds=takeover.seconds)
            self._tell(replace(event, phases=takeover.phases))
            self.on_served(image.uid, takeover)
        elif was and not image.exported:
            text, why = (
                "is not exported here any more, though it is held",
                image.error or "the kernel was found changed",
            )
            self._tell(self._of(image.uid, Kind.FAULT, text, why, trace=trace))
        elif was:
            self._takeovers.pop(image.uid, None)  # a path was opened again, which is no takeover
            self._see_paths(spec, image, trace)

    def _see_paths(self, spec: ImageSpec | None, image: ImageReport, trace: str) -> None:
        before = {path.tag: path for path in self._seen.paths.get(image.uid, ())}
        where = {path.tag: f" ({path.address}, {path.network})" for path in spec.paths} if spec else {}
        for path in image.paths:
            if path.tag in before and path.up != before[path.tag].up:
                text = f"path {path.tag}{where.get(path.tag, '')} is {'up again' if path.up else 'down'}"
                self._tell(replace(self._of(image.uid, Kind.PATH, text, path.reason, trace=trace), path=path.tag))

    def _see_failures(self, look: Look) -> None:
        for key in [key for key in self._failing if key not in look.at_work and look.error(key) is None]:
            del self._failing[key]
            self._tell(self._of(key, Kind.FAULT, "the fault is over", trace=self._trace(key)))

    def _see_obstacle(self, obstacle: str) -> None:
        now = self._clock()
        if not obstacle:
            if self._obstacle_told:
                self._tell(Event(Kind.NODE, "can take images again", node=str(self._node)))
            self._obstacle_since, self._obstacle_told = None, False
            return
        self._obstacle_since = now if self._obstacle_since is None else self._obstacle_since
        if not self._obstacle_told and now - self._obstacle_since >= OBSTACLE_LASTS:
            self._obstacle_told = True
            self._tell(Event(Kind.NODE, "can take no image", obstacle, node=str(self._node)))

    def _tell_fence(self, uid: str, token: int, intents: list[FenceIntent]) -> None:
        for node in sorted({str(intent.node or "") for intent in intents}):
            whose = f" of {node}" if node else " that nobody has on record"
            victims = _listed({intent.instance for intent in intents if str(intent.node or "") == node})
            text = f"fenced the clients{whose}, confirmed: {victims}"
            why = "they may have had it open"
            self._tell(self._of(uid, Kind.FENCE, text, why, trace=self._trace(uid) or trace_of(token), node=node))

    def _tell_amendment(self, uid: str, token: int, amendment: Amendment) -> None:
        """Told once, though it may be made again where its end could not be written down."""
        if self._amended.get(uid) != amendment.revision:
            self._amended[uid] = amendment.revision
            text = f"changed its recorded reservations as {amendment.by} asked: {amendment.what}"
            self._tell(self._of(uid, Kind.IMAGE, text, amendment.why, trace=self._trace(uid) or trace_of(token)))

    def _trace(self, uid: str) -> str:
        """The word for what happens to an image here now: of the takeover under way, or of the claim (it had) here."""
        takeover = self._takeovers.get(uid)
        if takeover is not None and takeover.trace:
            return takeover.trace
        token = self._held.get(uid, self._mine.get(uid))
        return trace_of(token) if token is not None else ""

    def _trace_of_next(self, uid: str) -> str:
        """The word for a takeover that begins: of the claim that ended before it; empty if none was seen."""
        return trace_of(self._last[uid]) if uid in self._last else ""

    def _see_holders(self, view: ClusterView) -> None:
        """Remember each image's newest claim, which the records of a holder that died still name, and who has none."""
        for token, uid in [
            *((record.token, record.image_uid) for record in view.records),
            *((claim.token, uid) for uid, claim in view.claims.items()),
        ]:
            self._last[uid] = max(token, self._last.get(uid, 0))
        now, wanted = self._clock(), (spec for spec in view.images.values() if not (spec.deleting or spec.stopped))
        self._unheld = {spec.uid: self._unheld.get(spec.uid, now) for spec in wanted if spec.uid not in view.claims}

    def _of(
        self,
        key: str,
        kind: Kind,
        text: str,
        why: str = "",
        *,
        trace: str = "",
        seconds: float | None = None,
        node: str = "",
    ) -> Event:
        """An event about an image; a key that is no image's uid names what the text is about."""
        node, name = node or str(self._node), self._names.get(key, "")
        took = None if seconds is None else round(seconds, 3)
        if not name and not re.fullmatch(r"[0-9a-f]{16}", key):
            return Event(kind, f"{key}: {text}", why, node=node, trace=trace, seconds=took)
        return Event(kind, text, why, image=name, uid=key, node=node, trace=trace, seconds=took)


def _failure(step: Step) -> str:
    return f"{re.sub(r'(?<!^)(?=[A-Z])', ' ', type(step).__name__).lower()} failed"


def _listed(instances: AbstractSet[Instance]) -> str:
    return ", ".join(str(instance) for instance in sorted(instances))
