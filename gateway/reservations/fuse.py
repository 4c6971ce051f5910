"""A file system over /dev/fuse that hands every text written whole to its owner, and answers the write only afterwards.

Spoken is the kernel's own protocol (include/uapi/linux/fuse.h, version 7.31), without libfuse: one directory of files,
nothing else. LIO's writer (drivers/target/target_core_pr.c) opens with O_TRUNC and writes a text that ends with a NUL.
It fails only if nothing at all was written: of a text in two pieces the last one's error is swallowed. So a piece may
be as long as a text (`max_write`), and the text then comes in one piece.

Rule: an error is an answer too, and LIO takes it for GOOD in most PR OUTs. Whoever cannot say yes yet does not return.

What happens to a write when its server is gone: as long as anyone holds the descriptor, the writer waits, killable by
nothing. A request that the dead server had read is never shown to the next one (before Linux 6.9 there is no resend),
nor does a next one know the open files. So a descriptor is served by one process only: the next one unmounts, which
fails every held write, and mounts anew; before that, nobody may be able to hear those answers. When the last holder
closes the descriptor, the kernel fails the held writes by itself.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import select
import stat
import struct
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from gateway.errors import Inconsistent, KernelRefused

KIND = "fuse.rbdgate"
"""The file system's type: the kernel takes what follows the dot as a subtype, and /proc/self/mountinfo shows both."""

MAX_TEXT = 1 << 20
"""Bytes in a text, its NUL included; a longer one is answered EFBIG. 512 registrations take under 400 KiB."""

_NO_SUID, _NO_DEVICES, _NO_EXEC = 0x2, 0x4, 0x8  # MS_NOSUID, MS_NODEV, MS_NOEXEC of uapi/linux/mount.h
_FORCE, _DETACH = 0x1, 0x2  # MNT_FORCE, MNT_DETACH of umount2(2)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def mount(where: Path) -> int:
    """Mount the file system on a directory; the descriptor (close-on-exec) that a FileTrap serves.

    LIO looks from the first process's mount namespace, so the caller has to be in it. Raises KernelRefused.
    """
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise KernelRefused(f"cannot open /dev/fuse: {_named(error.errno)}: is the module fuse loaded?") from None
    options = f"fd={device},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,default_permissions"
    flags = _NO_SUID | _NO_DEVICES | _NO_EXEC
    if _libc.mount(b"rbdgate", os.fsencode(where), KIND.encode(), flags, options.encode()) != 0:
        reason = _named(ctypes.get_errno())
        os.close(device)
        raise KernelRefused(f"cannot mount {KIND} on {where}: {reason}")
    return device


def mounted(where: Path) -> str | None:
    """The type of the topmost mount exactly there, None if there is none; asks nothing of the file system itself.

    Reads /proc/[pid]/fdinfo and mountinfo (proc(5)): paths alone would also name mounts that others hide.
    """
    try:
        number = _mount_number(where, os.O_NOFOLLOW)
        if number == _mount_number(where.parent):
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    for _ in range(3):  # a line may be missed while others mount
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            before, _, after = line.partition(b" - ")
            if int(before.split(b" ")[0]) == number:
                return after.split(b" ")[0].decode()
    return None  # it went meanwhile


def _mount_number(where: Path, more: int = 0) -> int:
    place = os.open(where, os.O_PATH | more)  # looks names up only: a stat here would wait for a dead server
    try:
        told = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{place}").read_text().splitlines())
    finally:
        os.close(place)
    return int(told["mnt_id"])


def unmount(where: Path) -> None:
    """Fail every held write and take the topmost mount there away; nothing mounted is fine. Raises KernelRefused.

    The mount is away when this returns, whoever still has a file open; `FileTrap.serve` of it then ends.
    """
    # One call: a second one could meet the mount below.
    if _libc.umount2(os.fsencode(where), _FORCE | _DETACH) != 0:
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOENT):  # not a mount, no such directory
            raise KernelRefused(f"cannot unmount {where}: {_named(code)}")


def _named(code: int | None) -> str:
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})" if code else "unknown error"


_ROOT = 1  # FUSE_ROOT_ID
_MINOR, _OLDEST_MINOR = 31, 28  # 7.28 (Linux 4.20) brought max_pages
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22  # flags of fuse_init_out
_SIZE_GIVEN, _HANDLE_GIVEN = 1 << 3, 1 << 6  # FATTR_SIZE, FATTR_FH
_DIRECT_IO = 1 << 0  # FOPEN_DIRECT_IO: every write(2) and kernel_write() is one synchronous request, none is cached
_BLOCK = 4096

_IN_HEADER = struct.Struct("=IIQQIIIHH")  # fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, extlen, padding
_OUT_HEADER = struct.Struct("=IiQ")  # fuse_out_header: len, error, unique
_INIT_IN = struct.Struct("=II")  # fuse_init_in: major, minor, ...
_INIT_OUT = struct.Struct("=IIIIHHIIHH32x")  # fuse_init_out: major, minor, max_readahead, flags, max_background,
#                                     congestion_threshold, max_write, time_gran, max_pages, map_alignment, unused
_ATTR = struct.Struct("=QQQ24x12xIIII4xI4x")  # fuse_attr: ino, size, blocks, 3 times and their nanoseconds, mode,
#                                     nlink, uid, gid, rdev, blksize, flags
_ENTRY_OUT = struct.Struct("=Q32x")  # fuse_entry_out: nodeid, generation, cache time-outs (0), fuse_attr follows
_ATTR_OUT = struct.Struct("=16x")  # fuse_attr_out: cache time-outs (0), fuse_attr follows
_SETATTR_IN = struct.Struct("=I4xQQ")  # fuse_setattr_in: valid, fh, size, ...
_CREATE_IN = struct.Struct("=16x")  # fuse_create_in: flags, mode, umask, open_flags; the name follows
_OPEN_OUT = struct.Struct("=QI4x")  # fuse_open_out: fh, open_flags
_RELEASE_IN = struct.Struct("=Q")  # fuse_release_in: fh, ...
_TRANSFER_IN = struct.Struct("=QQI20x")  # fuse_read_in, fuse_write_in: fh, offset, size, ...; what is written follows
_WRITE_OUT = struct.Struct("=I4x")  # fuse_write_out: size
_KSTATFS = struct.Struct("=40xIII28x")  # fuse_kstatfs: five counts (0), bsize, namelen, frsize
_DIRENT = struct.Struct("=QQII")  # fuse_dirent: ino, off, namelen, type; the name follows, padded to 8 bytes

_INIT = 26  # FUSE_INIT
_SILENT = (2, 36, 42)
"""FUSE_FORGET, INTERRUPT and BATCH_FORGET: no answer. An interrupted writer waits: its text may be on its way."""
_FIXED = {
    17: _KSTATFS.pack(_BLOCK, 255, _BLOCK),  # FUSE_STATFS
    27: _OPEN_OUT.pack(0, 0),  # FUSE_OPENDIR
    **dict.fromkeys((20, 25, 29, 34, 38), b""),  # FUSE_FSYNC, FLUSH, RELEASEDIR, ACCESS, DESTROY
}

_LONGEST = _IN_HEADER.size + _TRANSFER_IN.size + MAX_TEXT  # the kernel refuses to read into less


@dataclass
class _File:
    node: int
    name: str
    text: bytes = b""
    """What was last written whole and said yes to."""

    def attributes(self) -> bytes:
        """Its fuse_attr."""
        return _ATTR.pack(self.node, len(self.text), -(-len(self.text) // 512), stat.S_IFREG | 0o600, 1, 0, 0, _BLOCK)


@dataclass
class _Opened:
    """An open file: each has the pieces of its own text, so two writers of one name do not mix."""

    file: _File
    written: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class _Request:
    opcode: int
    unique: int
    node: int
    body: bytes

    @property
    def name(self) -> str:
        """The name that a body of LOOKUP or UNLINK is."""
        return os.fsdecode(self.body.split(b"\0")[0])


class _Refused(Exception):
    """A request's answer is this errno."""

    def __init__(self, code: int) -> None:
        super().__init__(_named(code))
        self.code = code


class FileTrap:
    """Serves a mount: `on_text(name, text)` gets each text, its NUL included, and its write is answered on return.

    `on_text` runs in a thread of its own per text. Of one name the kernel lets one write in at a time (i_rwsem): the
    next one, even its O_TRUNC, waits for the answer. If `on_text` raises, that is a bug: the write stays held, and the
    error goes to `threading.excepthook`, which should end the process.
    """

    def __init__(self, descriptor: int, on_text: Callable[[str, bytes], None]) -> None:
        self._on_text = on_text
        # One's own copy: an answer that comes late must not go into whatever has the number by then.
        self._device = os.dup(descriptor)
        self._wake = os.eventfd(0)
        for mine in (self._device, self._wake):
            weakref.finalize(self, os.close, mine)
        os.set_blocking(self._device, False)
        self._begun = False
        self._requests = 0
        self._numbers = itertools.count(_ROOT + 1)  # node ids and handles
        self._names: dict[str, _File] = {}
        self._nodes: dict[int, _File] = {}
        self._opened: dict[int, _Opened] = {}

    @property
    def requests(self) -> int:
        """How many requests the kernel has made."""
        return self._requests

    def stop(self) -> None:
        """Let `serve` return; from any thread, before or after. Held writes are answered all the same."""
        os.eventfd_write(self._wake, 1)

    def serve(self) -> None:
        """Answer the kernel until the file system is unmounted, or `stop`.

        Raises Inconsistent if another server began this connection (that request stays unanswered: it is held), and
        KernelRefused if the device cannot be read.
        """
        ready = select.poll()
        ready.register(self._device, select.POLLIN)
        ready.register(self._wake, select.POLLIN)
        buffer = bytearray(_LONGEST)
        while self._wake not in dict(ready.poll()):
            try:
                size = os.readv(self._device, [buffer])
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                # ENOENT: the writer was killed before its request was read.
                if error.errno not in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                    raise KernelRefused(f"cannot read /dev/fuse: {_named(error.errno)}") from None
            else:
                self._take(bytes(memoryview(buffer)[:size]))
        os.eventfd_read(self._wake)

    def _take(self, message: bytes) -> None:
        self._requests += 1
        _, opcode, unique, node, *_ = _IN_HEADER.unpack_from(message)
        if not self._begun and opcode != _INIT:
            raise Inconsistent("another process served this /dev/fuse descriptor before: unmount and mount anew")
        if opcode in _SILENT:
            return
        try:
            act = self._ACTS.get(opcode, FileTrap._fixed)
            answer = act(self, _Request(opcode, unique, node, message[_IN_HEADER.size :]))
        except _Refused as no:
            self._answer(unique, error=no.code)
        else:
            if answer is not None:
                self._answer(unique, answer)

    def _answer(self, unique: int, body: bytes = b"", *, error: int = 0) -> None:
        try:
            os.write(self._device, _OUT_HEADER.pack(_OUT_HEADER.size + len(body), -error, unique) + body)
        except OSError as gone:
            if gone.errno not in (errno.ENOENT, errno.ENODEV):  # nobody waits for it any more
                raise

    def _init(self, request: _Request) -> bytes:
        major, minor = _INIT_IN.unpack_from(request.body)
        if (major, minor) < (7, _OLDEST_MINOR):
            raise KernelRefused(f"this kernel speaks FUSE {major}.{minor}; 7.{_OLDEST_MINOR} (Linux 4.20) is needed")
        self._begun = True
        flags, pages = _BIG_WRITES | _MAX_PAGES, MAX_TEXT // mmap.PAGESIZE
        return _INIT_OUT.pack(7, min(minor, _MINOR), 0, flags, 0, 0, MAX_TEXT, 1, pages, 0)

    def _look_up(self, request: _Request) -> bytes:
        return self._entry(self._names.get(request.name))

    def _get_attributes(self, request: _Request) -> bytes:
        if request.node == _ROOT:
            return _ATTR_OUT.pack() + _ATTR.pack(_ROOT, 0, 0, stat.S_IFDIR | 0o700, 2, 0, 0, _BLOCK)
        return _ATTR_OUT.pack() + self._file(request).attributes()

    def _set_attributes(self, request: _Request) -> bytes:
        """Cut what was written through this handle; the last whole text stands until the next one is whole."""
        valid, handle, size = _SETATTR_IN.unpack_from(request.body)
        if valid & _SIZE_GIVEN and valid & _HANDLE_GIVEN:
            del self._open_file(handle).written[size:]
        return self._get_attributes(request)

    def _unlink(self, request: _Request) -> bytes:
        file = self._names.pop(request.name, None)
        if file is None:
            raise _Refused(errno.ENOENT)
        del self._nodes[file.node]
        return b""

    def _open(self, request: _Request) -> bytes:
        return self._handle(self._file(request))

    def _create(self, request: _Request) -> bytes:
        name = os.fsdecode(request.body[_CREATE_IN.size :].split(b"\0")[0])
        file = self._names.get(name)
        if file is None:
            file = self._names[name] = _File(next(self._numbers), name)
            self._nodes[file.node] = file
        return self._entry(file) + self._handle(file)

    def _read(self, request: _Request) -> bytes:
        handle, offset, size = _TRANSFER_IN.unpack_from(request.body)
        return self._open_file(handle).file.text[offset : offset + size]

    def _write(self, request: _Request) -> bytes | None:
        handle, offset, size = _TRANSFER_IN.unpack_from(request.body)
        opened = self._open_file(handle)
        if offset > len(opened.written):
            raise _Refused(errno.EINVAL)  # a gap: no writer of texts leaves one
        if offset + size > MAX_TEXT:
            raise _Refused(errno.EFBIG)
        opened.written[offset:] = request.body[_TRANSFER_IN.size :]
        if not opened.written.endswith(b"\0"):
            return _WRITE_OUT.pack(size)
        words = (request.unique, opened.file, bytes(opened.written), size)
        threading.Thread(target=self._hand_over, args=words, name=f"text {opened.file.name}", daemon=True).start()
        return None

    def _hand_over(self, unique: int, file: _File, text: bytes, size: int) -> None:
        self._on_text(file.name, text)
        file.text = text
        self._answer(unique, _WRITE_OUT.pack(size))

    def _release(self, request: _Request) -> bytes:
        self._opened.pop(_RELEASE_IN.unpack_from(request.body)[0], None)
        return b""

    def _read_directory(self, request: _Request) -> bytes:
        _, offset, size = _TRANSFER_IN.unpack_from(request.body)
        listing = b""
        entries = [(".", _ROOT), ("..", _ROOT), *((file.name, file.node) for file in self._names.values())]
        for number, (name, node) in enumerate(entries[offset:], offset + 1):
            word = os.fsencode(name)
            kind = (stat.S_IFDIR if node == _ROOT else stat.S_IFREG) >> 12
            entry = _DIRENT.pack(node, number, len(word), kind) + word + bytes(-len(word) % 8)
            if len(listing) + len(entry) > size:
                break
            listing += entry
        return listing

    def _fixed(self, request: _Request) -> bytes:
        if request.opcode not in _FIXED:
            raise _Refused(errno.ENOSYS)
        return _FIXED[request.opcode]

    def _entry(self, file: _File | None) -> bytes:
        if file is None:
            raise _Refused(errno.ENOENT)
        return _ENTRY_OUT.pack(file.node) + file.attributes()

    def _handle(self, file: _File) -> bytes:
        handle = next(self._numbers)
        self._opened[handle] = _Opened(file)
        return _OPEN_OUT.pack(handle, _DIRECT_IO)

    def _file(self, request: _Request) -> _File:
        file = self._nodes.get(request.node)
        if file is None:  # it was removed
            raise _Refused(errno.ENOENT)
        return file

    def _open_file(self, handle: int) -> _Opened:
        opened = self._opened.get(handle)
        if opened is None:
            raise _Refused(errno.EBADF)
        return opened

    _ACTS: ClassVar[Mapping[int, Callable[[FileTrap, _Request], bytes | None]]] = {
        1: _look_up,  # FUSE_LOOKUP
        3: _get_attributes,  # FUSE_GETATTR
        4: _set_attributes,  # FUSE_SETATTR
        10: _unlink,  # FUSE_UNLINK
        14: _open,  # FUSE_OPEN
        15: _read,  # FUSE_READ
        16: _write,  # FUSE_WRITE
        18: _release,  # FUSE_RELEASE
        _INIT: _init,
        28: _read_directory,  # FUSE_READDIR
        35: _create,  # FUSE_CREATE
    }
