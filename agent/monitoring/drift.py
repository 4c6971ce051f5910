"""Drift: an image at rest that somebody else has changed in the kernel, as the next turn's plan for it tells. Pure.

At rest is what the last report called complete under the present claim and the newest wish. If such an image has steps
now, under a tenure that has run since, with no newer wish, no work of ours, no mark of the guard's, and nothing that
lets it go, another hand was at work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from agent.monitoring.counts import Drift
from gateway.model import ClusterView
from gateway.observed import Kernel
from gateway.report import ImageReport, NodeReport
from gateway.steps import Build, ForsakeHold, Map, OpenPath, Plan, Release, SetInitiators, Step, TakeHold, Teardown


class DriftWatch:
    """Fed once a turn with what it planned and, afterwards, reported."""

    def __init__(self) -> None:
        self._rested: Mapping[str, ImageReport] = {}

    def forget(self) -> None:
        """Nothing counts as at rest: it may have been withdrawn since, by us or by the guard."""
        self._rested = {}

    def look(
        self, view: ClusterView, kernel: Kernel, plan: Plan, busy: AbstractSet[str], report: NodeReport
    ) -> Iterator[tuple[str, Drift]]:
        """The uids of the images that had been changed, each with what of it."""
        for uid, steps in plan.images.items():
            rested = self._rested.get(uid)
            if rested is not None and uid not in busy and uid not in kernel.condemned and self._is_wanted(view, rested):
                found = _drift(steps, rested)
                if found is not None:
                    yield uid, found
        quiet = plan.images.keys() | busy
        self._rested = {
            image.uid: image for image in report.images if image.exported and image.applied and image.uid not in quiet
        }

    def _is_wanted(self, view: ClusterView, rested: ImageReport) -> bool:
        spec, claim = view.spec_of(rested.uid), view.claims.get(rested.uid)
        same = spec is not None and view.wanted_revision(spec) == rested.applied
        return same and claim is not None and claim.token == rested.token


def _drift(steps: tuple[Step, ...], rested: ImageReport) -> Drift | None:
    if any(isinstance(step, Release | ForsakeHold) for step in steps):
        return None
    if any(isinstance(step, Teardown | Build | Map | TakeHold) for step in steps):
        return Drift.EXPORT
    up = {path.tag for path in rested.paths if path.up}
    if any(isinstance(step, OpenPath) and step.path.tag in up for step in steps):
        return Drift.PATH
    return Drift.INITIATORS if any(isinstance(step, SetInitiators) for step in steps) else None
