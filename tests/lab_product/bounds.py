"""How long a writer may stand still before something other than a slow machine is the cause.

How fast it is stands in README's table, as measured. These bounds only tell one mechanism from another, so each lies
between what is meant to happen and what would happen instead, with room for nodes that share two busy cores.
"""

from __future__ import annotations

TTL = 10.0
"""Seconds: the default lease."""

PAST_A_LEASE = TTL + 2
"""Seconds: a lease that nobody renewed has ended by then."""

IN_ORDER = 8.0
"""Seconds: less than a lease, so nothing had to run out. open-iscsi logs in after 2, and after 2 more if that fails."""

WITH_SESSION = 1.8
"""Seconds: open-iscsi waits 2 s after every lost connection before it does anything, so none was lost."""

AFTER_LEASE = TTL + 10
"""Seconds: one lease, fence and takeover; a second lease, or an initiator's own 120 s, does not fit."""
