"""Do the clocks agree. Nothing is decided by the time of day; logs, and certificates, are judged by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Subject, Unread

CLOCKS = Subject("clocks")

APART = 2.0
"""Seconds that are still the same moment to a reader of two logs; the members tell theirs in whole seconds."""


@dataclass(frozen=True)
class ClockFacts:
    """Whether the kernel's clock is disciplined, and by how many seconds each etcd member's is ahead of it."""

    synchronised: bool | Unread
    ahead: Mapping[str, float | Unread]


def check(facts: ClockFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    if isinstance(facts.synchronised, Unread):
        yield CLOCKS.unread(facts.synchronised)
    elif facts.synchronised:
        yield CLOCKS.ok("this node's clock is synchronised")
    else:
        yield CLOCKS.warning(
            "this node's clock is not synchronised: the times in its logs will not fit the others'",
            "run chrony or systemd-timesyncd",
        )
    for member, ahead in facts.ahead.items():
        if isinstance(ahead, Unread):
            yield CLOCKS.unread(ahead, "see what `rbdgate doctor --only etcd` says of it")
        elif abs(ahead) > APART:
            direction = "ahead of" if ahead > 0 else "behind"
            yield CLOCKS.warning(
                f"the clock of etcd member {member} is {abs(ahead):.0f} s {direction} this node's",
                "synchronise both with the same NTP servers",
            )
        else:
            yield CLOCKS.ok(f"the clock of etcd member {member} agrees with this node's within {APART:g} s")
