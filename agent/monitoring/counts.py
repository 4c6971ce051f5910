"""What is counted where it happens: every counter and histogram of the agent, in a registry of its own.

One method an event; nobody else names a metric of these. Safe from any thread, and never blocks on I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from agent.keeper import Renewal
from agent.monitoring.buckets import LONG, QUICK
from gateway.errors import NotFound, RbdgateError
from gateway.reasons import kind_of
from gateway.steps import Step
from gateway.store.client import Request
from gateway.store.wire import Verdict

_VERDICTS = {
    Verdict.NOT_DONE: "unavailable",
    Verdict.UNKNOWN: "unknown",
    Verdict.REFUSED: "refused",
    Verdict.LOGIN_NEEDED: "refused",
    Verdict.LEASE_GONE: "lease_gone",
    Verdict.COMPACTED: "refused",
}


class Outcome(Enum):
    """What came of a turn."""

    DONE = "done"
    UNREPORTED = "unreported"
    NOT_SERVING = "not_serving"
    UNREAD = "unread"
    FAILED = "failed"


class Kind(Enum):
    """Why an image came up here."""

    MOVE = "move"
    TAKEOVER = "takeover"
    START = "start"
    AGAIN = "again"


class Drift(Enum):
    """What of an image at rest was found changed by somebody else."""

    EXPORT = "export"
    PATH = "path"
    INITIATORS = "initiators"


disable_created_metrics()  # type: ignore[no-untyped-call] # when each series began: a third more of them, and nobody asks


class Counts:
    """The counters of one agent."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"rbdgate_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"rbdgate_{name}_seconds", what, labels, buckets=bounds, registry=registry)

        self._turns = counter("cycle_turns", "Turns of the cycle, by what came of them.", "outcome")
        self._turn = histogram("cycle_duration", "One turn, without the steps that workers take.", QUICK)
        self._renewals = counter("lease_renewals", "Renewals of the lease, by what came of them.", "outcome")
        self._renewal = histogram("lease_renewal_duration", "One proven renewal of the lease.", QUICK)
        self._steps = counter("plan_steps", "Steps that were taken.", "step")
        self._failed_steps = counter("plan_step_failures", "Steps that failed.", "step", "reason")
        self._failures = counter("image_failures", "Steps of an image that failed here.", "image", "reason")
        self._drift = counter("drift_found", "Images at rest that somebody else had changed.", "image", "kind")
        self._takeover = histogram("takeover_duration", "From the claim to the last path opened.", LONG, "kind")
        self._phase = histogram("takeover_phase_duration", "Each phase of a takeover.", LONG, "kind", "phase")
        self._release = histogram("release_duration", "Letting an image go in order.", LONG)
        self._fences = counter("fences", "Fences asked of Ceph at takeovers.", "outcome")
        self._fenced = counter("fenced_clients", "Client instances in confirmed fences.")
        self._restored = counter("fences_restored", "Entries that had vanished from Ceph's blocklist.")
        self._fence = histogram("fence_duration", "One fence, until it is confirmed or failed.", QUICK)
        self._etcd = histogram("etcd_request_duration", "One answered request to an etcd member.", QUICK, "operation")
        self._etcd_errors = counter("etcd_request_errors", "Failed requests to an etcd member.", "operation", "reason")
        self._rados = histogram("rados_request_duration", "One answered act in RADOS.", QUICK, "operation")
        self._rados_errors = counter("rados_request_errors", "Failed acts in RADOS.", "operation", "reason")
        self._refused = counter("http_refused", "HTTP connections turned away: too many were open.")
        for outcome in Outcome:
            self._turns.labels(outcome.value)
        for renewal in Renewal:
            self._renewals.labels(renewal.value)
        for word in ("confirmed", "failed"):
            self._fences.labels(word)

    def turned(self, outcome: Outcome, seconds: float) -> None:
        """A turn ended."""
        self._turns.labels(outcome.value).inc()
        self._turn.observe(seconds)

    def renewed(self, renewal: Renewal, seconds: float) -> None:
        """The lease's renewal was answered or not."""
        self._renewals.labels(renewal.value).inc()
        if renewal is Renewal.PROVEN:
            self._renewal.observe(seconds)

    def took(self, step: Step) -> None:
        """A step was taken."""
        self._steps.labels(word_of(step)).inc()

    def failed(self, step: Step, image: str, error: Exception) -> None:
        """A step failed; `image` is empty where it was about none."""
        kind = kind_of(type(error)).value
        self._failed_steps.labels(word_of(step), kind).inc()
        if image:
            self._failures.labels(image, kind).inc()

    def held(self, image: str) -> None:
        """An image is held here: its drift is counted from 0, for of a series that begins with 1 no rise is seen."""
        for drift in Drift:
            self._drift.labels(image, drift.value)

    def drifted(self, image: str, drift: Drift) -> None:
        """An image at rest was found changed."""
        self._drift.labels(image, drift.value).inc()

    def came_up(self, kind: Kind, seconds: float, phases: Mapping[str, float]) -> None:
        """An image was brought up here."""
        self._takeover.labels(kind.value).observe(seconds)
        for phase, took in phases.items():
            self._phase.labels(kind.value, phase).observe(took)

    def let_go(self, seconds: float) -> None:
        """An image was let go in order."""
        self._release.observe(seconds)

    def restored(self, fences: int) -> None:
        """So many fences had vanished and were added again."""
        self._restored.inc(fences)

    def refused(self) -> None:
        """An HTTP connection was turned away."""
        self._refused.inc()

    def etcd(self, request: Request) -> None:
        """A request to an etcd member ended."""
        if request.failure is None:
            self._etcd.labels(request.operation.value).observe(request.seconds)
        else:
            self._etcd_errors.labels(request.operation.value, _VERDICTS[request.failure]).inc()

    @contextmanager
    def rados(self, operation: str) -> Iterator[None]:
        """Around one act in RADOS; that something does not exist is an answer."""
        began = monotonic()
        try:
            yield
        except RbdgateError as error:
            if not isinstance(error, NotFound):
                self._rados_errors.labels(operation, kind_of(type(error)).value).inc()
                raise
            self._rados.labels(operation).observe(monotonic() - began)
            raise
        self._rados.labels(operation).observe(monotonic() - began)

    @contextmanager
    def fence(self, clients: int) -> Iterator[None]:
        """Around one fence of so many clients."""
        began = monotonic()
        try:
            yield
        except BaseException:
            self._fences.labels("failed").inc()
            raise
        finally:
            self._fence.observe(monotonic() - began)
        self._fences.labels("confirmed").inc()
        self._fenced.inc(clients)

    def keep_only(self, images: frozenset[str]) -> None:
        """Forget what was counted of images that are not in the cluster any more."""
        for metric in (self._failures, self._drift):
            found = {tuple(sample.labels.items()) for each in metric.collect() for sample in each.samples}
            for labels in found:
                if dict(labels)["image"] not in images:
                    metric.remove(*(value for _, value in labels))


def word_of(step: Step) -> str:
    """A step's kind in snake case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(step).__name__).lower()
