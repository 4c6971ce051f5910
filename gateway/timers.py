"""Every time-out of the project, in seconds, and the inequalities that make them safe together.

A set of timers that breaks an inequality is never used: the constructor refuses it and says which one. The table in
README is made of the same fields.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from gateway.errors import BadSettings

BLOCKLIST_EXPIRY = 365 * 24 * 3600
"""How long a fence lasts: an entry that goes lets the old holder's connection write again, so it is long."""

ANNOUNCE_AGAIN = (1.0, 2.0, 5.0, 10.0)
"""When an address that came up is announced again, counted from its first announcement."""

PROBES = (0.0, 0.3, 0.6)
"""When the network is asked who has an address that is new to the cluster, in seconds from the first question."""

PROBE_BOUND = 1.0
"""How long, in seconds from the first question, an answer is waited for; then nobody has the address."""

DEFENCE_SPACING = 1.0
"""An address that others claim, too, is announced at most this often, in seconds."""

ETCD_ELECTION = 4.0
"""What the loss of etcd's leader was seen to cost a client at most (three members, default election time-out)."""

GUARD_STALE = 5.0
"""A guard whose sign of life is older than this is taken for dead: it gives one a second."""


def guard_lives(sign: float | None, now: float) -> bool:
    """Whether a guard's sign of life of that time (None: there is none) counts at `now`, both CLOCK_BOOTTIME."""
    return sign is not None and now - sign < GUARD_STALE


CLOCK_DRIFT = 0.01
"""The most that two machines' clocks may differ in rate while a lease runs: 1 %, hundreds of times what NTP leaves."""

INITIATOR_NOP = 5.0
"""open-iscsi's `node.conn[0].timeo.noop_out_timeout` as shipped: a connection that is silent for longer is dropped. A
PR OUT that is held keeps its connection silent."""

INITIATOR_REPLACEMENT = 120.0
"""open-iscsi's `node.session.timeo.replacement_timeout` as shipped: after it, a lost session's I/O fails."""


@dataclass(frozen=True)
class Timers:
    """All that can be set, with the defaults the figures in README were measured with."""

    lease_ttl: float = 10.0
    """The TTL of a node's etcd lease: a crash is noticed at most this long after the last keepalive."""
    tenure_margin: float = 2.0
    """How long before the lease can run out the node stops serving by itself."""
    keepalive_period: float = 2.0
    """How often the lease is renewed."""
    etcd_call: float = 1.5
    """The deadline of one etcd call to one endpoint."""
    guard_period: float = 0.25
    """How often the guard looks whether the tenure still runs."""
    guard_grace: float = 0.5
    """How long after the tenure's end the guard leaves the withdrawal to the agent."""
    cut_bound: float = 1.0
    """How long the cut may take, for all portals of a node."""
    lock_bound: float = 10.0
    """How long a writer waits for the lock on configfs before it calls its holder stuck."""
    rados_operation: float = 10.0
    """librados' own time-out of one operation on an image's header or on the monitors."""
    reservation_hold: float = 3.5
    """How long a PR OUT may wait until it is recorded; then its image is cut and exported anew.

    TCP sends what was lost again after 0.2, 0.6, 1.4 and 3.0 s: a way to Ceph that was cut for 2 s works again at 3.
    """
    osd_request_timeout: float = 45.0
    """krbd's bound on one request: bounds a withdrawal; it stays above OSD failure detection and peering (30 s)."""
    turn_period: float = 5.0
    """How often the agent looks at everything when nothing woke it."""
    claim_stagger: float = 1.0
    """How much longer each next node in the placement order waits before it claims an image nobody claims."""
    failback_delay: float = 60.0
    """How long a node must have been fit before images are moved to it that another node serves as well."""
    retry_first: float = 1.0
    """The wait before an image that failed is tried again; it doubles with each failure."""
    retry_last: float = 30.0
    """The longest such wait."""
    blocklist_check: float = 60.0
    """How often the fences on record are compared with Ceph's blocklist."""
    storage_probe: float = 2.0
    """How often the node asks Ceph for something small, to know whether it answers."""
    storage_doubt: float = 8.0
    """After how long without an answer the node says that Ceph does not answer it, and is given nothing."""
    storage_loss: float = 20.0
    """After how long without an answer the node gives its images up, if another node shows that it is answered."""
    link_down: float = 1.0
    """How long a network may be without carrier before its paths are closed."""
    link_up: float = 10.0
    """How long a carrier must stay before the network counts as up when it is decided where images go."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 86400:
                raise BadSettings(f"timer {field.name} = {value!r}: it must be a number of seconds above 0")
        for holds, why in self._inequalities():
            if not holds:
                raise BadSettings(f"timers: {why}")

    @property
    def tenure(self) -> float:
        """How long after a keepalive was sent the node may serve."""
        return self.lease_ttl - self.tenure_margin

    def _inequalities(self) -> tuple[tuple[bool, str], ...]:
        guard = self.guard_period + self.guard_grace + self.cut_bound
        drift = self.lease_ttl * CLOCK_DRIFT
        renewal = self.keepalive_period + self.etcd_call
        said = self.storage_doubt + self.turn_period + self.storage_probe + 2 * self.etcd_call
        return (
            (self.lease_ttl >= 8, f"lease_ttl {self.lease_ttl} is below 8: an etcd election would end every tenure"),
            (
                guard + drift <= self.tenure_margin,
                f"guard_period + guard_grace + cut_bound + 1 % of lease_ttl = {guard + drift:.2f} exceeds tenure_margin"
                f" {self.tenure_margin}: a node could still answer when its lease has run out",
            ),
            (
                renewal + ETCD_ELECTION <= self.tenure,
                f"keepalive_period + etcd_call + {ETCD_ELECTION} (an election) = {renewal + ETCD_ELECTION} exceeds the"
                f" tenure of {self.tenure}: an etcd election would end it",
            ),
            (
                self.osd_request_timeout >= 30,
                f"osd_request_timeout {self.osd_request_timeout} is below 30: losing an OSD host would be an I/O error",
            ),
            (
                self.lease_ttl + self.rados_operation < INITIATOR_REPLACEMENT / 2,
                f"lease_ttl + rados_operation is more than half of the initiators' {INITIATOR_REPLACEMENT:.0f} s",
            ),
            (
                self.reservation_hold < INITIATOR_NOP,
                f"reservation_hold {self.reservation_hold} is not below the {INITIATOR_NOP:.0f} s after which an"
                " initiator gives up a connection that answers no NOP-Out",
            ),
            (self.retry_first <= self.retry_last, "retry_first exceeds retry_last"),
            (
                3 * self.storage_probe <= self.storage_doubt,
                f"3 x storage_probe exceeds storage_doubt {self.storage_doubt}: one late answer would be a doubt",
            ),
            (
                said <= self.storage_loss,
                f"storage_doubt + turn_period + storage_probe + 2 x etcd_call = {said} exceeds storage_loss"
                f" {self.storage_loss}: a node could give its images up before others have said that Ceph is slow",
            ),
        )
