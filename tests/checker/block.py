"""One numbered block of 4 KiB, as bytes: what lies on the disk and nothing else.

Eight sectors of 512 bytes, each complete in itself (magic, run, block, sequence, sector number, filler, CRC-32), so
that a write of which only a part landed shows as sectors with different sequences. Pure: no I/O, no clock.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

BLOCK = 4096
SECTOR = 512
SECTORS = BLOCK // SECTOR
MAGIC = b"RBDGCHK1"

_HEADER = struct.Struct(">8s16sQQI")  # magic, run, block, sequence, sector number
_CRC = struct.Struct(">I")  # of everything before it in the sector
_FILLER = SECTOR - _HEADER.size - _CRC.size


@dataclass(frozen=True)
class Found:
    """What a block holds: the lowest and the highest sequence of its sectors (they differ if a write was torn)."""

    oldest: int
    newest: int


def encode(run: bytes, block: int, sequence: int) -> bytes:
    """The 4096 bytes of one write; `run` is 16 bytes."""
    filler = struct.pack(">Q", sequence ^ 0x5A5A5A5A5A5A5A5A) * (_FILLER // 8 + 1)
    sectors = []
    for number in range(SECTORS):
        body = _HEADER.pack(MAGIC, run, block, sequence, number) + filler[:_FILLER]
        sectors.append(body + _CRC.pack(zlib.crc32(body)))
    return b"".join(sectors)


def decode(data: bytes | memoryview, run: bytes, block: int) -> Found | None:
    """What the run wrote there; None if any sector is not the run's own for that very block, or is damaged."""
    sequences = []
    for number in range(SECTORS):
        sector = bytes(data[number * SECTOR : (number + 1) * SECTOR])
        body, crc = sector[: -_CRC.size], sector[-_CRC.size :]
        if len(sector) != SECTOR or _CRC.pack(zlib.crc32(body)) != crc:
            return None
        magic, its_run, its_block, sequence, its_number = _HEADER.unpack_from(body)
        if (magic, its_run, its_block, its_number) != (MAGIC, run, block, number):
            return None
        sequences.append(sequence)
    return Found(min(sequences), max(sequences))
