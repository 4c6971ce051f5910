"""Looks at every subject at once, each in a thread of its own with a bound: one that hangs is told as such.

A thread that hangs in the kernel or in librados cannot be ended, only left behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from gateway.doctor.checks import ceph, clocks, disks, etcd, gateways, kernel, leftovers, networks, services, settings
from gateway.doctor.finding import Finding, Severity, Subject, Unread
from gateway.doctor.reading import ceph as ceph_reading
from gateway.doctor.reading import clocks as clocks_reading
from gateway.doctor.reading import disks as disks_reading
from gateway.doctor.reading import etcd as etcd_reading
from gateway.doctor.reading import kernel as kernel_reading
from gateway.doctor.reading import leftovers as leftovers_reading
from gateway.doctor.reading import networks as networks_reading
from gateway.doctor.reading import services as services_reading
from gateway.doctor.sources import Sources
from gateway.settings import RUNTIME_DIRECTORY

BOUND = 30.0
"""Seconds a subject gets: etcd's and Ceph's own bounds, of what is asked one after the other, are within it."""

_SETTINGS_FIRST = "put the settings file right first"

Look = Callable[[Sources], Iterable[Finding]]
"""One subject: reads, then judges."""


@dataclass(frozen=True)
class Examination:
    """What was found, the worst first; `hung` are subjects that did not answer, whose threads still run."""

    findings: tuple[Finding, ...]
    hung: tuple[str, ...]

    def count(self, severity: Severity) -> int:
        """How many findings are that bad."""
        return sum(finding.severity is severity for finding in self.findings)


def examine(sources: Sources, wanted: Iterable[str], bound: float = BOUND) -> Examination:
    """Look at the wanted subjects (all if none is named); nothing raises, and no subject waits for another."""
    names = [name for name in SUBJECTS if name in set(wanted)] or list(SUBJECTS)
    return looked_at({name: SUBJECTS[name] for name in names}, sources, bound)


def looked_at(subjects: Mapping[str, Look], sources: Sources, bound: float) -> Examination:
    """The findings of these subjects, each within `bound` seconds from now."""
    deadline = time.monotonic() + bound
    begun = [_Visit(name, look, sources) for name, look in subjects.items()]
    for visit in begun:
        visit.start()
    findings: list[Finding] = []
    for visit in begun:
        visit.join(max(0.0, deadline - time.monotonic()))
        findings += visit.told(bound)
    ranked = sorted(findings, key=lambda finding: -_RANK[finding.severity])
    return Examination(tuple(ranked), tuple(visit.name for visit in begun if visit.is_alive()))


_RANK = {Severity.OK: 0, Severity.WARNING: 1, Severity.ERROR: 2}


@dataclass(eq=False)
class _Visit(threading.Thread):
    """One subject's thread."""

    subject: str
    look: Look
    sources: Sources
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(name=self.subject, daemon=True)

    def run(self) -> None:
        try:
            self.findings = list(self.look(self.sources))
        except Exception as error:  # noqa: BLE001 - a fault of the doctor's own must not hide the other subjects
            self.findings = [
                Subject(self.subject).error(
                    f"the doctor itself failed here: {type(error).__name__}: {error}", "please report this"
                )
            ]

    def told(self, bound: float) -> list[Finding]:
        """The findings, or that there are none yet."""
        if not self.is_alive():
            return self.findings
        text = f"did not answer within {bound:g} s"
        return [Subject(self.subject).error(text, "see `dmesg` for tasks that are blocked, and this subject's service")]


def _settings(sources: Sources) -> Iterable[Finding]:
    return settings.check(services_reading.read_settings(sources.settings_path, sources.settings))


def _services(sources: Sources) -> Iterable[Finding]:
    known = sources.settings
    return services.check(
        services_reading.read(RUNTIME_DIRECTORY if isinstance(known, Unread) else known.runtime_directory)
    )


def _etcd(sources: Sources) -> Iterable[Finding]:
    facts = etcd_reading.read(sources)
    return [etcd.ETCD.unread(facts, _SETTINGS_FIRST)] if isinstance(facts, Unread) else etcd.check(facts)


def _ceph(sources: Sources) -> Iterable[Finding]:
    facts = ceph_reading.read(sources)
    return [ceph.CEPH.unread(facts, _SETTINGS_FIRST)] if isinstance(facts, Unread) else ceph.check(facts)


def _leftovers(sources: Sources) -> Iterable[Finding]:
    facts = leftovers_reading.read(sources)
    return [leftovers.LEFTOVERS.unread(facts, _SETTINGS_FIRST)] if isinstance(facts, Unread) else leftovers.check(facts)


def _gateways(sources: Sources) -> Iterable[Finding]:
    if isinstance(sources.settings, Unread):
        return [gateways.GATEWAYS.unread(sources.settings, _SETTINGS_FIRST)]
    status, node = sources.status(), sources.settings.node
    if isinstance(status, Unread):
        return gateways.check(gateways.GatewayFacts(node, version("rbdgate"), status, {}))
    return gateways.check(gateways.GatewayFacts(node, version("rbdgate"), status.view, status.reports))


SUBJECTS: Mapping[str, Look] = {
    "settings": _settings,
    "kernel": lambda _: kernel.check(kernel_reading.read()),
    "disks": lambda _: disks.check(disks_reading.read()),
    "services": _services,
    "clocks": lambda sources: clocks.check(clocks_reading.read(sources.expositions)),
    "etcd": _etcd,
    "ceph": _ceph,
    "networks": lambda sources: networks.check(networks_reading.read(sources)),
    "leftovers": _leftovers,
    "gateways": _gateways,
}
"""Every subject of `finding.NAMES`, in that order."""
