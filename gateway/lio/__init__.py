"""The only room that knows LIO: its configfs tree, read and written.

`observation` and `exports` read, `creation` and `authentication` build up, `removal` takes down (and is, with
`exports`, all the guard needs), `loop` is the node's own way to a device, `logins` tells who is logged in, `modules`
makes sure the kernel is ready, `lock` keeps writers of different processes apart, `configfs` is the door to the files.
Nothing here decides, sleeps on its own account or starts a thread; nothing is remembered.

The files are written directly. rtslib-fb is used where it is right and cheap, for the full dump (`dump`), and not for
creations: it rewrites `naa.6...` target names, refuses IQNs with one dot after the date, replays left-over
reservations when it makes a storage object, hides the errno, and walks every fabric to delete one.
"""

from gateway.lio.authentication import close_discovery, set_discovery
from gateway.lio.creation import build, expect_nothing, open_portal, set_acls
from gateway.lio.exports import (
    Export,
    find_export,
    find_exports,
    mapped_initiators,
    portals_of,
    relative_ports,
    serial_of,
)
from gateway.lio.lock import ConfigfsLock, LockHolder
from gateway.lio.logins import Session, sessions
from gateway.lio.loop import remove_loop, scsi_generic
from gateway.lio.modules import check, dbroot, ensure_modules
from gateway.lio.observation import observe, observe_devices, observe_discovery, observe_target, observe_targets
from gateway.lio.removal import close_portal, disable, teardown

__all__ = [
    "ConfigfsLock",
    "Export",
    "LockHolder",
    "Session",
    "build",
    "check",
    "close_discovery",
    "close_portal",
    "dbroot",
    "disable",
    "ensure_modules",
    "expect_nothing",
    "find_export",
    "find_exports",
    "mapped_initiators",
    "observe",
    "observe_devices",
    "observe_discovery",
    "observe_target",
    "observe_targets",
    "open_portal",
    "portals_of",
    "relative_ports",
    "remove_loop",
    "scsi_generic",
    "serial_of",
    "sessions",
    "set_acls",
    "set_discovery",
    "teardown",
]
