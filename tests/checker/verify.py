"""The judge: reads every block back and compares it with the journal.

    python3 -m tests.checker.verify --journal J [--device D]

Prints one JSON object; exit status 0 if nothing acknowledged was lost and nothing stale or foreign was found, else 1.
The judgement itself (`judge`) is pure.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.checker.block import BLOCK, Found, decode
from tests.checker.journal import History, Write, longest_stall, parse

CHUNK = 64  # blocks read at a time: 256 KiB


@dataclass(frozen=True)
class Verdict:
    """What came of a run; every list holds block numbers, in order.

    `lost_writes` counts acknowledged writes of which neither they nor anything later is on their block. A block is
    *stale* if it holds (or was seen to hold) an older write of this run than the last acknowledged one; *foreign* if it
    holds nothing this run ever wrote there although a write was acknowledged; *unreadable* if it could not be read.
    """

    acknowledged_writes: int
    lost_writes: int
    errors: int
    in_flight: int
    stale_blocks: tuple[int, ...]
    foreign_blocks: tuple[int, ...]
    unreadable_blocks: tuple[int, ...]

    @property
    def clean(self) -> bool:
        """Whether every acknowledged write is there."""
        return not (self.lost_writes or self.stale_blocks or self.foreign_blocks or self.unreadable_blocks)


class Unreadable:
    """Stands for a block that could not be read."""


UNREADABLE = Unreadable()


def judge(history: History, found: Mapping[int, Found | Unreadable | None]) -> Verdict:
    """Compare what each block holds (None: nothing of this run) with what was acknowledged.

    A write that ended in an error or is still in flight may have landed, wholly or in part, until a later write of
    its block was acknowledged; after that it must not be seen again.
    """
    by_block: dict[int, list[Write]] = {}
    for write in history.writes.values():
        by_block.setdefault(write.block, []).append(write)
    lost = 0
    stale, foreign, unreadable = set(), set(), set()
    for block, writes in by_block.items():
        acknowledged = sorted(write.sequence for write in writes if write.acknowledged)
        holds = found.get(block)
        if isinstance(holds, Unreadable):
            unreadable.add(block)
        elif holds is None or not {holds.oldest, holds.newest} <= {write.sequence for write in writes}:
            if acknowledged:
                foreign.add(block)
                lost += len(acknowledged)
        elif acknowledged and holds.oldest < acknowledged[-1]:
            stale.add(block)
            lost += sum(sequence > holds.oldest for sequence in acknowledged)
    for misread in history.misreads:
        (foreign if misread.oldest < 0 else stale).add(misread.block)
    writes_ = history.writes.values()
    return Verdict(
        acknowledged_writes=history.acknowledged,
        lost_writes=lost,
        errors=sum(write.ended is not None and not write.acknowledged for write in writes_),
        in_flight=sum(write.ended is None for write in writes_),
        stale_blocks=tuple(sorted(stale)),
        foreign_blocks=tuple(sorted(foreign)),
        unreadable_blocks=tuple(sorted(unreadable)),
    )


def read_back(history: History, device: str) -> dict[int, Found | Unreadable | None]:
    """Read the whole region with O_DIRECT, in chunks; a chunk that fails is read again block by block."""
    run = history.run
    disk = os.open(device, os.O_RDONLY | os.O_DIRECT)
    found: dict[int, Found | Unreadable | None] = {}
    try:
        for first in range(0, run.blocks, CHUNK):
            count = min(CHUNK, run.blocks - first)
            data = _read(disk, run.offset + first * BLOCK, count)
            for block in range(first, first + count):
                piece = _read(disk, run.offset + block * BLOCK, 1) if data is None else None
                if data is not None:
                    piece = data[(block - first) * BLOCK : (block - first + 1) * BLOCK]
                found[block] = UNREADABLE if piece is None else decode(piece, run.run, block)
    finally:
        os.close(disk)
    return found


def _read(disk: int, offset: int, blocks: int) -> bytes | None:
    """That many blocks from `offset` in bytes; None if the disk does not give them."""
    with mmap.mmap(-1, blocks * BLOCK) as buffer:
        try:
            done = os.preadv(disk, [buffer], offset)
        except OSError:
            return None
        return buffer[:] if done == blocks * BLOCK else None


def main() -> int:
    """Judge a journal against its disk."""
    parser = argparse.ArgumentParser(prog="verify", description="Read numbered blocks back and judge them.")
    parser.add_argument("--journal", required=True, type=Path, help="what the writer recorded")
    parser.add_argument("--device", help="the disk, if it has another name than when it was written")
    options = parser.parse_args()
    with options.journal.open() as lines:
        history = parse(lines)
    verdict = judge(history, read_back(history, options.device or history.run.device))
    stall = longest_stall(history)
    answer = asdict(verdict) | {"clean": verdict.clean, "longest_stall_s": round(stall.seconds, 3)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0 if verdict.clean else 1


if __name__ == "__main__":
    sys.exit(main())
