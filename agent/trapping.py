"""The trap put together with this node's kernel and Ceph, and its mount watched over, for the guard.

The descriptor of the mount is left with systemd (`FDSTORE`, sd_notify(3)): when the guard dies, changes of reservations
wait instead of failing. The guard's unit then cuts every portal; the next guard unmounts, which fails what waited and
is heard by nobody, mounts anew, and holds every export against what is recorded before it gives a sign of life.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from agent.monitoring.guard_file import GuardFigures
from agent.monitoring.tables import table_of
from agent.notify import notify, notify_with_descriptor
from agent.storage import StorageLink
from agent.trap import NOTHING_SAID, Trap, reconcile
from gateway import lio
from gateway.errors import Blocklisted, Inconsistent, KernelRefused, RbdgateError, Stuck
from gateway.images.cluster import CephConnection
from gateway.images.header import ImageHeader
from gateway.images.krbd import Krbd
from gateway.kernel import NodeKernel
from gateway.lio.exports import Export
from gateway.model import Address, Label
from gateway.reservations import pr_info
from gateway.reservations.fuse import KIND, FileTrap, mount, mounted, unmount
from gateway.reservations.lines import parse_aptpl_text
from gateway.reservations.recording import Ports, differs, read_state, record, recorded
from gateway.runtime import RuntimeDirectory

log = structlog.get_logger("trap")

FIRST_LOOK = 10.0
"""How long, in seconds, a new guard compares what is exported with what is recorded before it gives a sign of life."""


class NodeExports:
    """This node's exports as the trap needs them."""

    def __init__(self, kernel: NodeKernel, runtime: RuntimeDirectory) -> None:
        self._kernel, self._runtime = kernel, runtime

    def find(self, serial: str) -> Export | None:
        """The export with that unit serial."""
        return lio.find_export(serial)

    def portals(self, export: Export) -> frozenset[Address]:
        """The addresses of the export's portals."""
        return lio.portals_of(export.iqn)

    def silence(self, addresses: frozenset[Address]) -> None:
        """Cut these addresses, take them off, and read back that none is left."""
        try:
            self._kernel.cut(addresses)
        except RbdgateError as error:  # without an address nothing is sent either
            log.warning("not cut; the addresses go off all the same", error=str(error))
        self._kernel.remove_addresses(addresses)
        left = addresses & self._kernel.portal_addresses()
        if left:
            raise Stuck(f"addresses {', '.join(map(str, left))} are still on this node")

    def condemn(self, uid: str, reason: str) -> None:
        """Leave the mark in `/run`."""
        self._runtime.condemn(uid, reason)


class Recording:
    """Records tables in images' headers, with a RADOS client of the guard's own.

    It needs no fence of its own: each of its writes is refused by the OSD once another holder's swap is in the header.
    """

    def __init__(
        self,
        link: StorageLink[CephConnection],
        node: Label,
        runtime: RuntimeDirectory,
        *,
        timeout: float,
        figures: GuardFigures,
    ) -> None:
        self._figures = figures
        self._link, self._node, self._runtime = link, node, runtime
        self._timeout, self._krbd = timeout, Krbd()

    def record(self, export: Export, text: bytes, known: bytes | None) -> bytes:
        """Record the kernel's table of an export now; what is recorded afterwards."""
        with self._renewing():
            header, now = self._header(export), int(time.time())
            done = record(
                export, header, self._node, text, known=known, now=now, timeout=self._timeout,
                expect_whole=partial(self._expect_whole, export),
            )  # fmt: skip
        self.note(export, done)
        return done

    def _expect_whole(self, export: Export) -> None:
        reason = self._runtime.condemned().get(export.device.uid)
        if reason is not None:
            raise Inconsistent(f"the image is to be exported anew: {reason}")

    def restored(self, export: Export) -> bytes | None:
        """What the agent has restored an export from; None if it left no word of that, or none that is understood."""
        text = self._runtime.take_restored(export.device.uid)
        if text is not None:
            try:
                self.note(export, text)
            except RbdgateError as error:
                log.warning("not understood what was restored", uid=export.device.uid, reason=str(error))
                return None
        return text

    def compare(self, export: Export) -> bytes:
        """What is recorded of an export; Inconsistent if the kernel's table is another."""
        with self._renewing():
            state = self._header(export).read()
        text = state.pr_info
        wanted = recorded(text)
        self.note(export, text or b"")
        ports = Ports.of(export.iqn)
        table = read_state(export.device.uid, ports, wanted.hints, timeout=self._timeout)
        difference = differs(wanted, table, ports)
        if difference is not None:
            raise Inconsistent(difference)
        return text or b""

    def note(self, export: Export, text: bytes) -> None:
        """Let people know before there is no room: a registration too many takes the image off the air."""
        state = pr_info.decode(text)
        self._figures.table(export.device.uid, table_of(state))
        try:
            self._runtime.mark_crowded(export.device.uid, len(state.registrations) if state.nearly_full else 0)
        except OSError as error:  # it is recorded all the same
            log.warning("not noted how full a table is", uid=export.device.uid, error=str(error))

    def _header(self, export: Export) -> ImageHeader:
        number = export.dev_path.removeprefix("/dev/rbd")
        mapping = self._krbd.mapping(int(number)) if number.isdecimal() else None
        if mapping is None:
            raise Inconsistent(f"backstore {export.device} is on {export.dev_path}, which is no mapped image")
        return ImageHeader(self._link.connected(), mapping.pool, mapping.namespace, mapping.image_id)

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """A client that was put on the blocklist is of no use any more: the next try has another one."""
        try:
            yield
        except Blocklisted:
            self._link.renew()
            raise


class TrapMount:
    """The trap's file system on LIO's `<dbroot>/pr`: made at start, looked at all the time, made anew when gone.

    `cut` takes every portal of this node down, `unguard` tells the agent to open none.
    """

    def __init__(
        self,
        trap: Trap,
        place: Callable[[], Path],
        exports: Callable[[], Iterable[Export]],
        compare: Callable[[Export], bytes],
        *,
        cut: Callable[[], None],
        unguard: Callable[[], None],
    ) -> None:
        self._trap, self._place, self._exports, self._compare = trap, place, exports, compare
        self._cut, self._unguard = cut, unguard
        self._server: threading.Thread | None = None
        self._files: FileTrap | None = None
        self._descriptor, self._former = -1, 0
        self._off_air = False
        self.settled = False
        """Whether each export whose changes count is compared and caught, or off the air for good."""

    def requests(self) -> int:
        """How many requests the kernel made of the file system since this guard started."""
        return self._former + (self._files.requests if self._files else 0)

    def open(self) -> None:
        """The first mount of a new guard; then what is exported is compared.

        If anything is in the way, no export is left on the air. Errors as of `look`.
        """
        _forget_old_descriptors()
        self._cut()  # once more: the agent may have opened a path since this process began
        try:
            self._mount(self._place())
            exports = tuple(self._exports())
            if exports:
                reconcile(self._trap, exports, self._compare, FIRST_LOOK)
            self.settled = True
        except (RbdgateError, OSError) as error:
            self._take_off(f"changes of its reservations cannot be caught: {error}")
            raise

    def look(self) -> None:
        """Do nothing while it is mounted and served; else take every export off the air and mount anew.

        Raises Inconsistent if something that is not ours is mounted there, KernelRefused if it cannot be mounted, or
        if the kernel does not tell its exports: then this is not settled.
        """
        place = self._place()
        if self.settled and not self._off_air and self._is_served() and mounted(place) == KIND:
            return
        if not self._off_air:
            self._take_off("the file system that its reservations are recorded through was taken away")
        self._mount(place)
        self._off_air = False

    def _is_served(self) -> bool:
        return self._server is not None and self._server.is_alive()

    def _take_off(self, reason: str) -> None:
        """No export on the air any more: those that are built later find no trap, and are refused.

        All portals are cut for it, also of images that keep no reservations: the tenure is not looked at meanwhile.
        """
        self.settled = False
        try:
            self._unguard()
        finally:
            self._cut()
        self._trap.salvage(self._exports(), reason, self._said)
        self._off_air = self.settled = True
        log.error("nothing is exported until changes of reservations are caught again", reason=reason)

    def _said(self, export: Export) -> bytes:
        """What the kernel wrote last into a plain file below: it tells the ports of registrations at all ports."""
        try:
            place = self._place()
            if mounted(place) == KIND:
                return NOTHING_SAID
            text = (place / f"aptpl_{lio.serial_of(export.device)}").read_bytes()
            parse_aptpl_text(text)
        except (RbdgateError, OSError):
            return NOTHING_SAID
        return text

    def _mount(self, place: Path) -> None:
        while (found := mounted(place)) is not None:
            if found != KIND:
                raise Inconsistent(f"a file system of type {found} is mounted on {place}: unmount it")
            unmount(place)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in place.glob("aptpl_*"):  # of a time without a trap; rtslib would play it back
            left.unlink()
        former, self._descriptor = self._descriptor, -1
        if former >= 0:
            os.close(former)
        self._descriptor, self._former = mount(place), self.requests()
        self._files = FileTrap(self._descriptor, self._trap.on_text)
        self._server = threading.Thread(target=self._serve, args=(self._files,), name="trap", daemon=True)
        self._server.start()
        notify(FDSTOREREMOVE="1", FDNAME="trap")
        notify_with_descriptor("trap", self._descriptor)
        log.info("trap mounted", place=str(place))

    def _serve(self, files: FileTrap) -> None:
        try:
            files.serve()
        except (KernelRefused, Inconsistent) as error:
            log.warning("the trap is not served any more", error=str(error))


def _forget_old_descriptors() -> None:
    """Close what a former guard left with systemd (sd_listen_fds(3)): its mount goes with the unmounting."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        for descriptor in range(3, 3 + int(os.environ.get("LISTEN_FDS", "0"))):
            os.close(descriptor)
