"""The door to configfs: one function per kind of act, every failure a typed error that names the file and the errno.

A read or a listing of something that is not there (any more) answers None or nothing, because other processes write
this tree too; every other failure raises. Nothing is cached.
"""

from __future__ import annotations

import errno
import os

from gateway.credentials import Secret
from gateway.errors import KernelRefused, Unavailable

TARGET_ROOT = "/sys/kernel/config/target"
"""Where target_core_mod keeps its tree (`configfs` mounted on /sys/kernel/config)."""

_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENODEV))
"""What a read meets when its object is removed under it; ENODEV comes from files of a LUN without a device."""


def refused(act: str, path: str, error: OSError) -> KernelRefused:
    """The error for an act the kernel did not do."""
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    return KernelRefused(f"{act} {path}: {error.strerror} ({name}); the kernel's log may say more (dmesg)")


def read(path: str) -> str | None:
    """A file's text without its trailing newline; None if it is not there or its object is going away."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise refused("cannot open", path, error) from None
    try:
        # configfs shows at most one page per file (fs/configfs/file.c).
        return os.read(descriptor, 4096).decode(errors="replace").rstrip("\n")
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise refused("cannot read", path, error) from None
    finally:
        os.close(descriptor)


def write(path: str, value: str) -> None:
    """Write a file's value in one write, which is how configfs takes it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(f"cannot write {value!r} to", path, error) from None
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise refused(f"cannot write {value!r} to", path, error) from None
    finally:
        os.close(descriptor)


def write_secret(path: str, secret: Secret) -> None:
    """Write what nobody shall see: an error names the file, not the value."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, secret.plain.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise refused("cannot write", path, error) from None


def entries(path: str) -> tuple[str, ...]:
    """The names in a directory; none if it is not there."""
    try:
        return tuple(os.listdir(path))
    except OSError as error:
        if error.errno in _GONE:
            return ()
        raise refused("cannot list", path, error) from None


def root_entries(path: str) -> tuple[str, ...]:
    """The names in a directory that must be there: an unreadable tree is unknown, never empty."""
    try:
        return tuple(os.listdir(path))
    except OSError as error:
        raise Unavailable(
            f"cannot list {path}: {error.strerror}; is configfs mounted and target_core_mod loaded?"
        ) from None


def exists(path: str) -> bool:
    """Whether the path is there now."""
    return os.path.lexists(path)


def link_target(path: str) -> str | None:
    """Where a link points; None if it is not there or is no link."""
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno in _GONE or error.errno == errno.EINVAL:
            return None
        raise refused("cannot read the link", path, error) from None


def links(path: str) -> dict[str, str]:
    """The links in a directory by name, with where each points."""
    try:
        with os.scandir(path) as found:
            names = [entry.name for entry in found if entry.is_symlink()]
    except OSError as error:
        if error.errno in _GONE:
            return {}
        raise refused("cannot list", path, error) from None
    targets = ((name, link_target(f"{path}/{name}")) for name in names)
    return {name: target for name, target in targets if target is not None}


def make(path: str) -> None:
    """Create an object, which must not be there."""
    try:
        os.mkdir(path)
    except OSError as error:
        raise refused("cannot create", path, error) from None


def make_if_missing(path: str) -> None:
    """Create an object unless it is there."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    except OSError as error:
        raise refused("cannot create", path, error) from None


def link(path: str, to: str) -> None:
    """Link one object to another; `to` is absolute, because configfs resolves it against the caller's directory."""
    try:
        os.symlink(to, path)
    except OSError as error:
        raise refused(f"cannot link {to} to", path, error) from None


def unlink(path: str) -> None:
    """Remove a link, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused("cannot unlink", path, error) from None


def remove(path: str) -> None:
    """Remove an object, if it is there."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused("cannot remove", path, error) from None
