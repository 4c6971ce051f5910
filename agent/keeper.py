"""The lease keeper: one thread that renews the lease, proves the claims and writes the tenure's end.

It does nothing else, and shares no lock with anything that can block: neither the cycle, configfs nor RADOS can keep
it from renewing. The tenure is counted from *before* the keepalive was sent, and a claim counts only when it was
seen under the lease after that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Protocol

import structlog

from agent.clock import boottime
from gateway.errors import LeaseGone, RbdgateError
from gateway.runtime import RuntimeDirectory, Tenure
from gateway.timers import Timers

log = structlog.get_logger("keeper")

TURNLESS = 120.0
"""How long a lease is inherited though no turn of an agent ends, in s: systemd ends one that hangs after 60."""


def inherited(runtime: RuntimeDirectory, boot_id: str, node: str, now: float) -> Tenure | None:
    """The tenure that a predecessor left in `/run` on this boot for its successor to go on with; None if none did.

    Agents that start and die, one after the other, must not keep a lease alive under which nobody looks after the
    images: where no turn of any of them ended for `TURNLESS` seconds, the lease is left to run out.
    """
    tenure, turned = runtime.read_tenure(boot_id), runtime.cycle_sign()
    if tenure is None or tenure.end <= 0:
        return None
    if tenure.node not in ("", node):  # the lease says that another node lives: it must run out
        log.warning("this node had another name; beginning anew", former=tenure.node, now=node)
        runtime.drop_tenure()
        return None
    if turned is None or now - turned > TURNLESS:
        log.error("no agent here ended a turn for long; leaving its lease to run out", lease=f"{tenure.lease:x}")
        return None
    log.info("taking up the lease of a former agent", lease=f"{tenure.lease:x}")
    return replace(tenure, node=node)


class Renewal(Enum):
    """What came of one renewal."""

    PROVEN = "proven"
    FAILED = "failed"
    GONE = "gone"


class LeaseStore(Protocol):
    """What the keeper needs of etcd; each call returns or raises within its deadline."""

    def keepalive(self, lease: int, *, timeout: float) -> float:
        """Renew the lease; returns its TTL in seconds, raises `LeaseGone` when it is no more."""
        ...

    def own_claims(self, lease: int, *, timeout: float) -> dict[str, int]:
        """The claims held under the lease, read linearizably: uid to token."""
        ...


class LeaseKeeper(threading.Thread):
    """Renews one lease until it is gone or the keeper is told to stop; begins from the tenure proven so far."""

    def __init__(
        self,
        store: LeaseStore,
        tenure: Tenure,
        *,
        timers: Timers,
        runtime: RuntimeDirectory,
        on_change: Callable[[], None],
        clock: Callable[[], float] = boottime,
        heard: Callable[[Renewal, float], None] = lambda _renewal, _seconds: None,
    ) -> None:
        """`heard` hears what came of each renewal after how many seconds, and must not block."""
        super().__init__(name="lease-keeper", daemon=True)
        self._heard = heard
        self._store, self.lease = store, tenure.lease
        self._timers, self._runtime, self._on_change, self._clock = timers, runtime, on_change, clock
        self._tenure = tenure
        self._wake = threading.Event()
        self._stop_requested = threading.Event()
        self._proofs = threading.Condition()
        self._writing = threading.Lock()
        self._closed = False
        self._begun = 0
        self._proved = 0
        self._failed = 0
        self.gone = False

    @property
    def tenure(self) -> Tenure:
        """The last proven tenure; it may be over."""
        return self._tenure

    def prove(self, timeout: float) -> Tenure:
        """Renew now and wait for a proof that began after this call; the last tenure if none came in time."""
        with self._proofs:
            wanted = self._begun + 1
            self._wake.set()
            self._proofs.wait_for(lambda: self._proved >= wanted or self.gone, timeout)
        return self._tenure

    def stop(self) -> None:
        """End the thread, after one last renewal so that a successor has as long as possible."""
        self._stop_requested.set()
        self._wake.set()
        self.join(2 * self._timers.etcd_call + 1)
        self._close()

    def abandon(self) -> None:
        """End the renewals now, without waiting for the thread, and write nothing more: the membership is over."""
        self._close()
        self._stop_requested.set()
        self._wake.set()

    def _close(self) -> None:
        """From now on no tenure is written: a renewal that is answered only now must not bring an old one back."""
        with self._writing:
            self._closed = True

    def run(self) -> None:
        """Renew, sleep, renew; a failure is tried again at once, for the endpoint has changed."""
        while not (self.gone or self._closed):
            stopping = self._stop_requested.is_set()
            self._wake.clear()
            ok = self._renew()
            if stopping:
                return
            self._wake.wait(self._timers.keepalive_period if ok else 0.1)

    def _renew(self) -> bool:
        with self._proofs:
            self._begun += 1
            number = self._begun
        sent = self._clock()
        try:
            ttl = self._store.keepalive(self.lease, timeout=self._timers.etcd_call)
            end = sent + min(ttl, self._timers.lease_ttl) - self._timers.tenure_margin
            claims = self._store.own_claims(self.lease, timeout=self._timers.etcd_call)
        except LeaseGone:
            self._heard(Renewal.GONE, self._clock() - sent)
            if not self._closed:
                self._end()
            return False
        except RbdgateError as error:
            self._heard(Renewal.FAILED, self._clock() - sent)
            self._complain(error)
            return False
        self._failed = 0
        proven = replace(self._tenure, end=end, claims=claims)
        if not self._write(proven):
            self._heard(Renewal.FAILED, self._clock() - sent)
            return False
        self._heard(Renewal.PROVEN, self._clock() - sent)
        lost = {uid for uid, token in self._tenure.claims.items() if claims.get(uid) != token}
        self._tenure = proven
        with self._proofs:
            self._proved = number
            self._proofs.notify_all()
        if lost:
            self._on_change()
        return True

    def _complain(self, error: RbdgateError) -> None:
        """Log a failure, and of those in a row only some: there are ten a second while etcd is away."""
        self._failed += 1
        if self._failed.bit_count() == 1:
            log.warning("renewal failed", lease=f"{self.lease:x}", in_a_row=self._failed, error=str(error))

    def _write(self, tenure: Tenure) -> bool:
        """Tell the guard; a tenure it cannot be told of is none, for it would cut at the end it knows."""
        with self._writing:
            if self._closed:
                return False
            try:
                self._runtime.write_tenure(tenure)
            except OSError as error:
                log.warning("tenure not written", path=str(self._runtime.path), error=str(error))
                return False
        return True

    def _end(self) -> None:
        log.error("lease gone", lease=f"{self.lease:x}")
        self._tenure = replace(self._tenure, end=0.0, claims={})
        self._write(self._tenure)
        with self._proofs:
            self.gone = True
            self._proofs.notify_all()
        self._on_change()
