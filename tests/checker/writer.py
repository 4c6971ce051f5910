"""The writer: numbers every 4 KiB block it writes to a region of a disk, and keeps a journal of what was acknowledged.

    python3 -m tests.checker.writer --device /dev/mapper/disk --journal J --control FIFO [--offset B] [--blocks N]
        [--lanes N] [--read-every N] [--rate N]

Each lane has one synchronous write (`O_DIRECT|O_DSYNC`) outstanding, on blocks of its own. Before every N-th write a
lane reads the block it is about to overwrite, so that a stale block is seen even if it would be overwritten later.
The control FIFO takes lines: `mark NAME` and `stop`; SIGTERM stops too. The last line printed is a summary in JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.checker.block import BLOCK, decode, encode
from tests.checker.journal import longest_stall, parse

MARK_WITHIN = 1.0  # seconds a mark waits for a moment with a write under way
GRACE = 5.0  # seconds a lane gets to finish its write when the writer is told to stop
RESTLESS = 2  # lanes that never wait, whatever the rate: they keep a write in flight while the others are between two
AFTER_ERROR = 0.1  # seconds a lane waits after a write that failed, so that a dead disk does not spin a processor


def now() -> int:
    """Microseconds of CLOCK_MONOTONIC."""
    return time.monotonic_ns() // 1000


@dataclass
class Journal:
    """The journal's file; every entry is one `write(2)` in append mode, so lines never mix."""

    path: Path
    descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def add(self, *lines: str) -> None:
        """Append these lines at once."""
        os.write(self.descriptor, "".join(line + "\n" for line in lines).encode())


@dataclass(frozen=True)
class Region:
    """Which blocks of which disk are ours; `offset` in bytes, a multiple of 4096."""

    device: str
    offset: int
    blocks: int
    lanes: int

    def blocks_of(self, lane: int) -> Iterator[int]:
        """The lane's blocks, round and round; no two lanes share one."""
        return itertools.cycle(range(lane, self.blocks, self.lanes))


class Writer:
    """All lanes of one run, and the flags that steer them."""

    def __init__(self, region: Region, journal: Journal, *, read_every: int, rate: float) -> None:
        self.run = os.urandom(16)
        self.region = region
        self.journal = journal
        self.read_every = read_every
        self.period = 1.0 / rate if rate else 0.0
        self.stopping = threading.Event()
        self._sequence = itertools.count(1)
        self._flying: dict[int, int] = {}  # by lane, since when it has a write under way
        journal.add(
            f"run {self.run.hex()} {region.device} {region.offset} {region.blocks} {region.lanes} {now()}",
        )

    def lane(self, lane: int) -> None:
        """Write this lane's blocks until told to stop."""
        disk = os.open(self.region.device, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
        buffer = mmap.mmap(-1, BLOCK)  # page-aligned, as O_DIRECT wants it
        last: dict[int, int] = {}
        pending = ""
        for turn, block in enumerate(self.region.blocks_of(lane), 1):
            if self.stopping.is_set():
                break
            if self.read_every and turn % self.read_every == 0 and block in last:
                self._read(disk, buffer, lane, block, last[block])
            sequence = next(self._sequence)
            buffer[:] = encode(self.run, block, sequence)
            self._flying[lane] = now()
            begun = f"w {lane} {block} {sequence} {self._flying[lane]}"
            self.journal.add(*([pending] if pending else []), begun)  # one system call for two lines: they are slow
            pending = self._write(disk, buffer, lane, block, sequence)
            if pending:
                last[block] = sequence
            else:
                last.pop(block, None)  # it may hold either value now; the judge knows, a read here need not
            if lane >= RESTLESS:
                self.stopping.wait(self.period)
        if pending:
            self.journal.add(pending)
        os.close(disk)

    def _write(self, disk: int, buffer: mmap.mmap, lane: int, block: int, sequence: int) -> str:
        """Write one block; the line to record its acknowledgement, or "" after an error, which is recorded here."""
        try:
            done = os.pwrite(disk, buffer, self.region.offset + block * BLOCK)
        except OSError as error:
            del self._flying[lane]
            self.journal.add(f"e {lane} {block} {sequence} {now()} {error.errno}")
            self.stopping.wait(AFTER_ERROR)
            return ""
        del self._flying[lane]  # before the time of its end is taken: what is in it ends later than now
        if done != BLOCK:
            self.journal.add(f"e {lane} {block} {sequence} {now()} 0")
            return ""
        return f"a {lane} {block} {sequence} {now()}"

    def _read(self, disk: int, buffer: mmap.mmap, lane: int, block: int, expected: int) -> None:
        """Read a block whose last write was acknowledged; anything else than that write is put on record."""
        try:
            done = os.preadv(disk, [buffer], self.region.offset + block * BLOCK)
        except OSError:
            return  # an error says nothing about what the block holds
        found = decode(buffer[:done], self.run, block)
        if found is None:
            self.journal.add(f"r {lane} {block} -1 -1 {now()}")
        elif (found.oldest, found.newest) != (expected, expected):
            self.journal.add(f"r {lane} {block} {found.oldest} {found.newest} {now()}")

    def obey(self, line: str) -> None:
        """Do what a line of the control FIFO says; what is not understood is told on stderr."""
        match line.split():
            case ["mark", name]:
                self.journal.add(f"m {name} {self._moment()}")
            case ["stop"]:
                self.stopping.set()
            case _:
                sys.stderr.write(f"writer: not understood: {line!r}\n")

    def _moment(self) -> int:
        """A time at which a write was under way: what is marked between two writes shows nothing."""
        deadline = time.monotonic() + MARK_WITHIN
        while True:
            moment = now()
            if any(began <= moment for began in list(self._flying.values())) or time.monotonic() > deadline:
                return moment
            self.stopping.wait(0.001)


def listen(writer: Writer, control: Path) -> None:
    """Serve the control FIFO for ever; opened for reading and writing, so that it never sees an end of file."""
    descriptor = os.open(control, os.O_RDWR)
    with os.fdopen(descriptor, "r+b", buffering=0) as fifo:
        rest = b""
        while True:
            rest += fifo.read(4096) or b""
            *lines, rest = rest.split(b"\n")
            for line in lines:
                writer.obey(line.decode(errors="replace"))


def summary(journal: Path) -> dict[str, object]:
    """What the journal says about the run as a whole."""
    with journal.open() as lines:
        history = parse(lines)
    stall = longest_stall(history)
    writes = history.writes.values()
    return {
        "run": history.run.run.hex(),
        "acknowledged_writes": history.acknowledged,
        "errors": sum(write.ended is not None and not write.acknowledged for write in writes),
        "in_flight": sum(write.ended is None for write in writes),
        "misreads": len(history.misreads),
        "longest_stall_s": round(stall.seconds, 3),
    }


def main() -> None:
    """Run until told to stop, then print the summary."""
    options = _options()
    writer = Writer(
        Region(options.device, options.offset, options.blocks, options.lanes),
        Journal(options.journal),
        read_every=options.read_every,
        rate=options.rate,
    )
    if options.control:
        if not options.control.is_fifo():
            os.mkfifo(options.control)
        threading.Thread(target=listen, args=(writer, options.control), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: writer.stopping.set())
    lanes = [threading.Thread(target=writer.lane, args=(n,), daemon=True) for n in range(options.lanes)]
    for lane in lanes:
        lane.start()
    while not writer.stopping.wait(0.5) and any(lane.is_alive() for lane in lanes):
        pass
    deadline = time.monotonic() + GRACE
    for lane in lanes:
        lane.join(max(0.0, deadline - time.monotonic()))
    writer.journal.add(f"end {now()}")
    sys.stdout.write(json.dumps(summary(options.journal)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a lane that hangs in the kernel must not keep the interpreter's shutdown waiting


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="writer", description="Write numbered blocks and keep a journal of them.")
    parser.add_argument("--device", required=True, help="the disk (or file) to write to; its contents are lost")
    parser.add_argument("--journal", required=True, type=Path, help="a new file for the journal")
    parser.add_argument("--control", type=Path, help="a FIFO to be made, for mark and stop")
    parser.add_argument("--offset", type=int, default=0, help="where the region begins, in bytes")
    parser.add_argument("--blocks", type=int, default=256, help="how many blocks of 4 KiB it has")
    parser.add_argument("--lanes", type=int, default=1, help="how many writes are outstanding at a time")
    parser.add_argument("--read-every", type=int, default=4, help="read before every N-th write (0: never)")
    parser.add_argument(
        "--rate", type=float, default=0, help=f"writes a second of each lane but the first {RESTLESS} at most"
    )
    options = parser.parse_args()
    if options.offset % BLOCK or options.offset < 0:
        parser.error(f"--offset {options.offset} is not a multiple of {BLOCK}")
    if not 1 <= options.lanes <= options.blocks:
        parser.error(f"--lanes {options.lanes}: 1 to --blocks, which is {options.blocks}")
    return options


if __name__ == "__main__":
    main()
