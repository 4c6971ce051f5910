"""What is mounted, from /proc/self/mountinfo (proc(5)); nothing that is mounted is touched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mount:
    """One mount: the place, the file system's kind, and what is mounted."""

    point: str
    kind: str
    source: str


def mounts() -> tuple[Mount, ...]:
    """Everything this process sees mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        words, rest = before.split(), after.split()
        if len(words) > 4 and len(rest) > 1:
            found.append(Mount(_unescaped(words[4]), rest[0], _unescaped(rest[1])))
    return tuple(found)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
