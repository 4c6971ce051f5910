"""From the image's `pr_info` to the kernel's table: at a takeover, before the first LUN link, and read back.

Rule: an export whose table is not the recorded one is not opened. What cannot bind here (an initiator that is not
allowed, a path that is not there, another product's target) is stale: it stays recorded and blocks nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from gateway.errors import Inconsistent, Unavailable
from gateway.model import ImageSpec, Iqn
from gateway.reservations.fuse import KIND, mounted
from gateway.reservations.lines import restore_lines
from gateway.reservations.recording import Ports, differs, read_state
from gateway.reservations.state import Nexus, ReservationState


def expect_trap(dbroot: Path) -> None:
    """Unavailable if the kernel's changes of reservations would not be caught: nothing is exported then."""
    found = mounted(dbroot / "pr")
    if found != KIND:
        what = f"a file system of type {found} is mounted" if found else "nothing is mounted"
        raise Unavailable(
            f"{what} on {dbroot}/pr, where the guard catches changes of reservations: see the log of rbdgate-guard"
        )


def restoring(spec: ImageSpec, state: ReservationState, allowed: Collection[Iqn]) -> tuple[str, ...]:
    """The kernel's lines for all that binds at this target as soon as the LUNs of `allowed` are there.

    Of what is stale the kernel hears nothing: it would put a line in force whenever its initiator's LUN appeared, if
    that was forgotten meanwhile, too, and hand it the reservation whoever held it by then.
    """
    nexuses = (each.nexus for each in state.registrations)
    stale = (nexus for nexus in nexuses if not (fits(spec, nexus) and nexus.initiator in allowed))
    tags = {path.tag: path.tag for path in spec.paths}  # the kernel does not use the ports
    return restore_lines(state.without(stale), tags)


def comes_back(spec: ImageSpec, state: ReservationState, newcomers: Collection[Iqn], ports: Ports) -> bool:
    """Whether a registration on record is to be in force as soon as these initiators have their LUNs."""
    coming = (each.nexus for each in state.registrations if each.nexus.initiator in newcomers)
    return any(fits(spec, nexus) and not ports.binds(nexus) for nexus in coming)


def fits(spec: ImageSpec, nexus: Nexus) -> bool:
    """Whether a registration of that nexus can be made at the image's target."""
    return nexus.target == spec.identity.iqn and any(path.tag == nexus.tag for path in spec.paths)


def expect_restored(spec: ImageSpec, state: ReservationState, *, timeout: float) -> None:
    """Inconsistent unless the kernel's table is exactly what is recorded and binds; `timeout` in seconds a command."""
    ports = Ports.of(spec.identity.iqn)
    table = read_state(spec.uid, ports, state.hints, timeout=timeout)
    difference = differs(state, table, ports)
    if difference is not None:
        raise Inconsistent(f"image {spec.name}: its reservations were not restored as they are recorded: {difference}")
