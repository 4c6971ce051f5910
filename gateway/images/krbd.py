"""The kernel's RBD driver through sysfs: what is mapped, map, unmap, and the anchor.

Format: Documentation/ABI/testing/sysfs-bus-rbd. All of it is plain blocking: a write to `add` or `remove` can take
as long as Ceph does, so the caller gives it a thread. Maps wait for each other (`client_mutex` in drivers/block/rbd.c)
while the kernel makes a client, at most `mount_timeout`, and while it asks the monitors for the newest OSD map, which
has no bound at all (`ceph_monc_get_version`; seen): with no monitor in reach a map hangs until one is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from gateway.errors import (
    BadInput,
    Blocklisted,
    Inconsistent,
    KernelRefused,
    NotFound,
    RbdgateError,
    Refused,
    StorageUnavailable,
)
from gateway.images.cephx import CephKey, MonAddresses, lent_to_kernel
from gateway.model import ImageName, Instance
from gateway.observed import ANCHOR, GENERATION_BASE, Mapping


class DeviceInUse(Refused):
    """Somebody has the block device open."""


_FLAGS_NOT_OF_THE_CLIENT = frozenset({"ro", "rw", "read_only", "exclusive", "notrim", "lock_on_read", "_pool_ns"})
_SECRETS = frozenset({"secret", "key"})
_BUSY_BOUND = 1.0
"""Seconds an unmap waits for udev: it probes a device whenever a writer closes it (60 ms at most were seen)."""
_BUSY_PAUSE = 0.02
_MEANING: MappingOf[int, tuple[type[RbdgateError], str]] = {
    errno.ENOENT: (NotFound, "the kernel knows no such pool, image or device"),
    errno.ENXIO: (Refused, "the image has features this kernel's RBD driver does not support"),
    errno.ETIMEDOUT: (StorageUnavailable, "Ceph did not answer in time"),
    errno.EIO: (StorageUnavailable, "no monitor could be reached"),
    errno.EBUSY: (DeviceInUse, "the device is in use"),
    errno.EROFS: (Refused, "another client has the image's lock and does not let go of it"),
    errno.ESHUTDOWN: (Blocklisted, "this node's kernel client is on the blocklist"),
    errno.EPERM: (Refused, "not permitted: check the key and caps of the cephx user"),
    errno.EACCES: (Refused, "access denied: check the key and caps of the cephx user"),
    errno.ENOKEY: (Refused, "the kernel did not find the cephx key"),
}


@dataclass(frozen=True)
class KernelClient:
    """How the kernel logs in: the monitors, the user without `client.`, and its key."""

    mons: MonAddresses
    user: str
    key: CephKey = field(repr=False)

    def monitors(self) -> tuple[str, dict[str, str]]:
        """The map string's monitors, and the option that makes krbd speak their protocol."""
        if self.mons.v1:
            return ",".join(self.mons.v1), {}
        return ",".join(self.mons.v2), {"ms_mode": "prefer-crc"}


def client_options(generation: int, *, osd_request_timeout: float, mount_timeout: float) -> dict[str, str]:
    """The options that make a client instance of ours; whole seconds, and a new generation is a new instance."""
    return {
        "osd_request_timeout": str(round(osd_request_timeout)),
        "mount_timeout": str(round(mount_timeout)),
        "osd_idle_ttl": str(GENERATION_BASE + generation),
    }


@dataclass(frozen=True)
class Krbd:
    """The driver of this node; `bus` and `dev` are where its files are."""

    bus: Path = Path("/sys/bus/rbd")
    dev: Path = Path("/dev")

    def mappings(self) -> tuple[Mapping, ...]:
        """Everything that is mapped now, whoever mapped it; empty while the module is not loaded."""
        try:
            entries = sorted((self.bus / "devices").iterdir(), key=lambda entry: int(entry.name))
        except FileNotFoundError:
            return ()
        return tuple(mapping for mapping in map(self._mapping, entries) if mapping is not None)

    def mapping(self, number: int) -> Mapping | None:
        """What `/dev/rbd<number>` maps; None if it maps nothing."""
        return self._mapping(self.bus / "devices" / str(number))

    def map_anchor(self, pool: str, client: KernelClient, options: MappingOf[str, str]) -> Mapping:
        """Map the pool's anchor read-only with those client options: its instance is there before any image's."""
        monitors, protocol = client.monitors()
        return self._map(ImageName(pool=pool, name=ANCHOR), monitors, client, {**options, **protocol}, "ro")

    def map_image(self, name: ImageName, client: KernelClient, anchor: Mapping) -> Mapping:
        """Map an image for reading and writing, with the very client instance of the anchor.

        Because the instance exists, the kernel first waits for the newest OSD map (`rbd_get_client`). A mapping
        that turns out to have another instance is unmapped again and refused as Inconsistent.
        """
        if anchor not in self.mappings():
            raise Inconsistent(f"the anchor {anchor.dev_path} is not mapped any more: there is no client to share")
        # A lock owner that lives and does not let go would hold up the map for good (lock_timeout is 0 by default).
        words = {**anchor.options, "lock_timeout": anchor.options["mount_timeout"]}
        mapping = self._map(name, client.monitors()[0], client, words, "rw")
        if mapping.instance != anchor.instance:
            self.unmap(mapping.number)
            raise Inconsistent(f"{name} was mapped as {mapping.instance}, not as the anchor's {anchor.instance}")
        return mapping

    def unmap(self, number: int) -> None:
        """Unmap `/dev/rbd<number>`; DeviceInUse if it stays open for a second, NotFound if it is not mapped."""
        busy = retry_if_exception_type(DeviceInUse)
        for attempt in Retrying(
            retry=busy, stop=stop_after_delay(_BUSY_BOUND), wait=wait_fixed(_BUSY_PAUSE), reraise=True
        ):
            with attempt:
                self._write("remove_single_major", f"{number}", f"unmapping /dev/rbd{number}")

    def _map(
        self, name: ImageName, monitors: str, client: KernelClient, options: MappingOf[str, str], access: str
    ) -> Mapping:
        before = {mapping.number for mapping in self.mappings()}
        with lent_to_kernel(client.key, f"rbdgate.{client.user}") as key_name:
            words = {"name": client.user, "key": key_name, **options}
            if name.namespace:
                words["_pool_ns"] = name.namespace
            text = ",".join([*(f"{word}={value}" for word, value in words.items()), access])
            self._write("add_single_major", f"{monitors} {text} {name.pool} {name.name} -", f"mapping {name}")
        return self._new_mapping(name, before, access == "ro")

    def _new_mapping(self, name: ImageName, before: set[int], read_only: bool) -> Mapping:
        here = (name.pool, name.namespace, name.name, read_only)
        for mapping in self.mappings():
            found = (mapping.pool, mapping.namespace, mapping.name, mapping.read_only)
            if mapping.number not in before and found == here:
                if not (self.dev / f"rbd{mapping.number}").exists():
                    raise Inconsistent(f"{name} is mapped, but {mapping.dev_path} does not exist: is devtmpfs there?")
                return mapping
        raise Inconsistent(f"the kernel accepted the mapping of {name}, but does not list it")

    def _mapping(self, entry: Path) -> Mapping | None:
        try:
            words = (entry / "config_info").read_text().split(" ")
            options = _options(words[1])
            return Mapping(
                number=int(entry.name),
                pool=_line(entry / "pool"),
                namespace=_line(entry / "pool_ns"),
                name=_line(entry / "name"),
                image_id=_line(entry / "image_id"),
                instance=Instance(_line(entry / "client_addr")),
                options={k: v for k, v in options.items() if k not in _FLAGS_NOT_OF_THE_CLIENT},
                read_only=bool(options.keys() & {"ro", "read_only"}) or _line(entry / "current_snap") != "-",
                size=int(_line(entry / "size")),
            )
        except (FileNotFoundError, ProcessLookupError):
            return None  # unmapped while it was read
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise KernelRefused(f"{entry} cannot be read: {error.strerror}") from None
        except (IndexError, ValueError, BadInput) as error:
            raise Inconsistent(f"{entry} says something unexpected: {error}") from None

    def _write(self, attribute: str, text: str, what: str) -> None:
        """One write to one file of the bus; the errno is the driver's answer."""
        try:
            descriptor = os.open(self.bus / attribute, os.O_WRONLY)
        except OSError as error:
            raise KernelRefused(f"{what}: {error.strerror}: is the module rbd loaded (`modprobe rbd`)?") from None
        try:
            os.write(descriptor, text.encode())
        except OSError as error:
            kind, meaning = _MEANING.get(error.errno or 0, (KernelRefused, f"the kernel says: {error.strerror}"))
            raise kind(f"{what}: {meaning}; see `dmesg`") from None
        finally:
            os.close(descriptor)


def _line(path: Path) -> str:
    return path.read_text().rstrip("\n")


def _options(text: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in text.split(","))
    return {name: value for name, _, value in pairs if name not in _SECRETS}
