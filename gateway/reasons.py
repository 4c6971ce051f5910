"""Reasons in one word each, from bounded sets: what free text says to people, counted and compared by machines. Pure.

The words are labels of figures (`agent/monitoring/README.md`) and stand in nodes' reports, so none is ever renamed.
"""

from __future__ import annotations

from enum import Enum

from gateway import errors


class Down(Enum):
    """Why a path is down."""

    NO_HOLDER = "no_holder"
    STARTING = "starting"
    NETWORK = "network"
    GUARD = "guard"
    STRANGER = "stranger"
    FAILURE = "failure"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, _value: object) -> Down:
        """A word of another version's."""
        return cls.UNKNOWN


class FailureKind(Enum):
    """What kind of thing failed, by the kind of error."""

    ETCD = "etcd"
    STORAGE = "storage"
    FENCE = "fence"
    KERNEL = "kernel"
    RACE = "race"
    TENURE = "tenure"
    DAMAGED = "damaged"
    REFUSED = "refused"
    BUG = "bug"


class Obstacle(Enum):
    """Why a node takes no image now."""

    STORAGE = "storage"
    GUARD = "guard"
    LEAVING = "leaving"
    STARTING = "starting"
    DISCOVERY = "discovery"
    TENURE = "tenure"


_KINDS: tuple[tuple[FailureKind, tuple[type[errors.RbdgateError], ...]], ...] = (
    (FailureKind.ETCD, (errors.StoreUnavailable, errors.StoreRefused, errors.LeaseGone)),
    (FailureKind.FENCE, (errors.FenceUnconfirmed, errors.Blocklisted, errors.RequestsGivenUp)),
    (FailureKind.STORAGE, (errors.StorageUnavailable, errors.OutcomeUnknown)),
    (FailureKind.RACE, (errors.Conflict, errors.ClaimLost, errors.LostRace)),
    (FailureKind.TENURE, (errors.TenureOver,)),
    (FailureKind.DAMAGED, (errors.Inconsistent, errors.NewerSchema)),
    (FailureKind.KERNEL, (errors.KernelRefused, errors.Stuck, errors.Unavailable)),
    (FailureKind.REFUSED, (errors.RbdgateError,)),
)
"""The first that fits counts: the kinds of error stand in one tree, the narrow before the wide."""


def kind_of(error: type[BaseException]) -> FailureKind:
    """What kind of failure an error is; one that is none of ours is a bug."""
    return next((kind for kind, types in _KINDS if issubclass(error, types)), FailureKind.BUG)
