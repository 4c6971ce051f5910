"""The only room that knows LIO: its configfs tree, read and written.

`observation` reads, `creation` and `authentication` build up, `removal` takes down (and is all the guard needs),
`logins` tells who is logged in, `modules` makes sure the kernel is ready, `lock` keeps writers of different processes
apart, `configfs` is the door to the files. Nothing here decides, sleeps on its own account or starts a thread; nothing
is remembered.

The files are written directly. rtslib-fb is used where it is right and cheap, for the full dump (`dump`), and not for
creations: it rewrites `naa.6...` target names, refuses IQNs with one dot after the date, replays left-over
reservations when it makes a storage object, hides the errno, and walks every fabric to delete one.
"""

from gateway.lio.authentication import close_discovery, set_discovery
from gateway.lio.creation import build, open_portal, set_acls
from gateway.lio.lock import ConfigfsLock, LockHolder
from gateway.lio.logins import Session, sessions
from gateway.lio.modules import check, ensure_modules
from gateway.lio.observation import observe, observe_devices, observe_discovery, observe_target, observe_targets
from gateway.lio.removal import close_portal, disable, teardown

__all__ = [
    "ConfigfsLock",
    "LockHolder",
    "Session",
    "build",
    "check",
    "close_discovery",
    "close_portal",
    "disable",
    "ensure_modules",
    "observe",
    "observe_devices",
    "observe_discovery",
    "observe_target",
    "observe_targets",
    "open_portal",
    "sessions",
    "set_acls",
    "set_discovery",
    "teardown",
]
