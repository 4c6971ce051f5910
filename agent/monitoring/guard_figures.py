"""The figures of the guard, from its sign of life and from its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from agent.monitoring.buckets import cumulative
from agent.monitoring.families import counter, histogram, one, total
from agent.monitoring.guard_file import GuardWord
from gateway.timers import GUARD_STALE


def guard_figures(sign: float | None, now: float, word: GuardWord | None, names: Mapping[str, str]) -> Iterator[Metric]:
    """Whether there is a guard, and what it says; `word` is None if it is not known."""
    age = None if sign is None else max(0.0, now - sign)
    yield one("guard_up", "Whether the guard gives signs of life.", age is not None and age < GUARD_STALE)
    yield one("guard_sign_age_seconds", "Age of the guard's last sign of life.", age)
    if word is None:
        return
    yield one("guard_start_timestamp_seconds", "When this guard started.", word.started)
    yield one("guard_cut", "Whether it keeps this gateway withdrawn: the tenure is over.", word.cut)
    yield total("guard_cuts", "How often it found the tenure over with portals up, and cut.", word.cuts)
    yield total("guard_condemned", "Images it took off the air because of their reservations.", word.condemned)
    yield one("guard_trap_mounted", "Whether changes of reservations are caught.", word.mounted)
    yield total("guard_trap_requests", "Requests of the kernel to the trap's file system.", word.requests)
    yield one("reservation_held_writes", "Changes that wait to be recorded.", word.held)
    yield one("reservation_held_write_age_seconds", "For how long the oldest of them has waited.", word.oldest)
    yield total("reservation_lost_races", "Commits that met another holder's write.", word.lost_races)
    commits = (((names[uid],), count) for uid, count in word.commits.items() if uid in names)
    yield counter("reservation_commits", "Changes recorded in the image.", ("image",), commits)
    failures = (((kind.value,), count) for kind, count in word.failures.items())
    yield counter("reservation_commit_failures", "Changes not recorded in time.", ("reason",), failures)
    what = "From the kernel's write to the record in the image."
    yield histogram("reservation_commit_duration", what, cumulative(word.buckets), word.seconds)
