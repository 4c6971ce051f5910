"""Prints the stalls that a recorded run measured, as README's table: `python -m tests.stalls [FILE]`.

One row for each kind of event: the longest stall of the 4 KiB writer, and in how many tests it was measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.recording import RESULTS, ROOT, Record


def table(record: Record) -> str:
    """The stalls by kind in Markdown, the shortest first."""
    measured: dict[str, list[float]] = {}
    for result in record.tests.values():
        for kind, seconds in result.stalls.items():
            measured.setdefault(kind, []).append(seconds)
    rows = sorted((max(stalls), kind, len(stalls)) for kind, stalls in measured.items())
    lines = [f"| {kind} | {longest:.2f} s | {count} |" for longest, kind, count in rows]
    return "\n".join(["| event | longest stall | measured |", "|---|---|---|", *lines])


def main() -> int:
    """Print the table of the file that is named, or of the last full run."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / RESULTS / "full.json"
    if not file.exists():
        sys.exit(f"there is no {file}: `tests/run full` makes it, or name another")
    record = Record.from_json(file.read_text())
    sys.stdout.write(f"{table(record)}\n\nOn {record.machine}; {record.date}, commit {record.commit[:12]}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
