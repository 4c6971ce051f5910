"""Every error of the library, in one tree, named for who must act.

`BadInput` and `Refused` speak to the caller (amend and try again), `Unavailable` to the operator (something this
node needs does not answer; nothing is known to have changed), `OutcomeUnknown` to our own code (a write that may
have happened: read before going on), `Inconsistent` to the operator (something else wrote what is ours).
Each message names the value, the reason and what to do.
"""

from __future__ import annotations


class RbdgateError(Exception):
    """Whatever this library raises on purpose."""


class BadInput(RbdgateError):
    """A value that can never be right; nothing was changed."""


class BadSettings(BadInput):
    """The settings file says something it may not say."""


class NewerSchema(BadInput):
    """A stored value was written by a newer version than this one understands."""


class Refused(RbdgateError):
    """A well-formed wish that the cluster's present state does not allow; nothing was changed."""


class NotFound(Refused):
    """The thing that was named does not exist."""


class AlreadyExists(Refused):
    """The thing to create, or a value that must be unique, exists already."""


class Conflict(Refused):
    """Somebody else changed what this decision rested on; decide anew."""


class AddressInUse(Refused):
    """A machine that is none of ours has an address that was to be a portal; nothing was put on."""


class StoreRefused(Refused):
    """etcd answered no: permission, a malformed request, no space left; nothing was done."""


class Unavailable(RbdgateError):
    """A service or the kernel did not answer in time; nothing was done by the call that raised this."""


class StoreUnavailable(Unavailable):
    """No etcd endpoint answered in time."""


class StorageUnavailable(Unavailable):
    """RADOS did not answer in time, or cannot be reached."""


class OutcomeUnknown(RbdgateError):
    """A write was sent and never answered: it may or may not have happened. Read before you go on."""


class LeaseGone(RbdgateError):
    """etcd says that the lease does not exist any more."""


class ClaimLost(RbdgateError):
    """The claim that this act was to be guarded by is not ours (any more)."""


class LostRace(RbdgateError):
    """A guarded write to the image's header met another writer: somebody else holds the image."""


class FenceUnconfirmed(RbdgateError):
    """It could not be shown that a former holder's writes are refused from now on: do not export."""


class Blocklisted(RbdgateError):
    """This client's own instance is on the blocklist: everything it holds must be withdrawn."""


class RequestsGivenUp(RbdgateError):
    """The kernel gave a request up that an OSD may still carry out: its client must be fenced, never released."""


class Inconsistent(RbdgateError):
    """What was read back is not what was written, or is damaged."""


class DamagedTable(Inconsistent):
    """An image's recorded reservations cannot be understood, so it is not exported; the message says which line."""


class Sealed(RbdgateError):
    """A secret cannot be sealed or opened on this node: it has no key, another key, or the value is damaged."""


class KernelRefused(RbdgateError):
    """The kernel answered a configfs, sysfs or netlink request with an error."""


class Stuck(RbdgateError):
    """An act in the kernel has not come back within its bound; it may still complete."""


class TenureOver(RbdgateError):
    """This node may not serve now, so the step that would have started to was not taken."""
