"""The only room that knows the node's network: interfaces, portal addresses, cuts, announcements, TCP peers.

`interfaces` reads, `addresses` and `blackhole` write, `announcement` and `tcp` speak to neighbours and initiators,
`probe` asks and `hearing` hears them (`packets` are the bytes), `changes` wakes, `netlink` is the door. Nothing here
decides, sleeps or starts a thread.

rtnetlink (RFC 3549, uapi/linux/rtnetlink.h) is spoken directly: the five messages needed are small, thousands of them
go out in one stream (a cut of 2,000 addresses may not take longer than one), and the guard, which must be small and
sure to start, uses the same code.
"""

from gateway.network.addresses import add_address, remove_address, remove_addresses
from gateway.network.announcement import announce
from gateway.network.blackhole import cut, mute, uncut, unmute
from gateway.network.changes import Changes
from gateway.network.hearing import Hearing
from gateway.network.interfaces import NetworkView, contested, observe, observe_own
from gateway.network.packets import Assertion
from gateway.network.probe import stranger_with
from gateway.network.tcp import Peer, closed_connections, could_still_send, nudge, peers

__all__ = [
    "Assertion",
    "Changes",
    "Hearing",
    "NetworkView",
    "Peer",
    "add_address",
    "announce",
    "closed_connections",
    "contested",
    "could_still_send",
    "cut",
    "mute",
    "nudge",
    "observe",
    "observe_own",
    "peers",
    "remove_address",
    "remove_addresses",
    "stranger_with",
    "uncut",
    "unmute",
]
