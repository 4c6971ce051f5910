"""The only room that knows the node's network: interfaces, portal addresses, cuts, announcements, TCP peers.

`interfaces` reads, `addresses` and `cut` write, `announce` and `tcp` speak to neighbours and initiators, `changes`
wakes, `netlink` is the door. Nothing here decides, sleeps or starts a thread.

rtnetlink (RFC 3549, uapi/linux/rtnetlink.h) is spoken directly: the five messages needed are small, thousands of them
go out in one stream (a cut of 2,000 addresses may not take longer than one), and the guard, which must be small and
sure to start, uses the same code.
"""
