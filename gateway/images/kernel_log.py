"""The kernel's log, read for one thing: that libceph gave a request up before its OSD answered.

After `osd_request_timeout` libceph fails a request to whoever made it and says `tid N on osdN timeout`
(net/ceph/osd_client.c, handle_timeout; rate-limited, so a burst may be one line). The OSD may have the request all the
same and carry it out later. The line does not name the client. Format: Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_RECORD = re.compile(rb"\d+,(\d+),[^;]*;(.*)")
_GIVEN_UP = re.compile(rb"libceph\b.*\btid \d+ on osd-?\d+\b.*\btimeout\b")
_LONGEST = 8192
"""More than the longest record the kernel hands out, in bytes (a shorter buffer is refused)."""

_MOST = 50_000
"""Records read in one look, several times what the ring holds: a look must end."""


@dataclass(frozen=True)
class Excerpt:
    """What was new in the log: `last` is the newest record's number, as it was before if there was none.

    `given_up`: a request was given up. `lost`: records were overwritten before they were read.
    """

    last: int
    given_up: bool = False
    lost: bool = False


class KernelLog:
    """One reader of the log."""

    def __init__(self, path: Path = Path("/dev/kmsg")) -> None:
        self._path = path
        self._descriptor: int | None = None

    def look(self, after: int) -> Excerpt:
        """What comes after that record (-1: all since boot); OSError if the log cannot be read.

        Later looks go on where this one ended, so `after` is then the `last` it returned.
        """
        last, given_up, lost = after, False, False
        for number, text in self._records():
            if number > last:
                lost = lost or number > last + 1
                given_up = given_up or _GIVEN_UP.match(text) is not None
                last = number
        return Excerpt(last, given_up, lost)

    def _records(self) -> Iterator[tuple[int, bytes]]:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        for _ in range(_MOST):
            try:
                record = os.read(self._descriptor, _LONGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                continue  # overwritten meanwhile: the next read goes on at the oldest there is, and the numbers tell
            found = _RECORD.match(record)
            if found is None:
                return
            yield int(found[1]), found[2]
        raise OSError(errno.EOVERFLOW, "the kernel's log grows faster than it is read")
