"""The checker at work inside an initiator: started, marked, watched, stopped and judged from outside."""

from __future__ import annotations

import io
import json
import tarfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from tests.checker.block import BLOCK
from tests.checker.journal import History, Reader, Stall, longest_stall
from tests.lab.cluster import Lab
from tests.lab_product.interruptions import Interruption
from tests.lab_product.waiting import until

ROOT = Path(__file__).parents[2]
HOME = "/var/tmp/rbdgate-checker"  # inside a node of the lab, where root is alone
WANTED = 200  # acknowledged writes before, between and after events
PROGRESS_WITHIN = 120.0  # seconds for that many, on a busy machine


class Writing:
    """One run of the checking writer on a device of an initiator.

    It does not wait between writes, and several lanes write, so that some write is in flight whenever something happens
    (one lane has one under way for 85 % of the time, measured in the lab); `stop` insists on it for every mark.
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        device: str,
        *,
        initiator: str = "ini1",
        offset: int = 0,
        blocks: int = 256,
        lanes: int = 4,
        read_every: int = 4,
        rate: int = 0,
    ) -> None:
        self._lab, self._initiator, self.name = lab, initiator, name
        self._journal, self._control = f"{HOME}/{name}.journal", f"{HOME}/{name}.control"
        self._reader, self._read = Reader(), 0
        self.stalls: dict[Interruption, float] = {}
        """The stalls a test measured, in seconds, by the kind of event they stand for."""
        self._install()
        self._exec(
            "systemd-run", "--quiet", f"--unit=checker-{name}", f"--working-directory={HOME}",
            "/usr/bin/python3", "-m", "tests.checker.writer", "--device", device, "--journal", self._journal,
            "--control", self._control, "--offset", str(offset), "--blocks", str(blocks), "--lanes", str(lanes),
            "--read-every", str(read_every), "--rate", str(rate),
        )  # fmt: skip
        until("the writer's first acknowledged write", lambda: self._acknowledged() > 0, within=60)

    def mark(self, event: str) -> None:
        """Put an event on record, at the initiator's own time; returns when it is."""
        self._exec("sh", "-c", f"echo 'mark {event}' > {self._control}")
        until(f"the mark {event}", lambda: dict(self.history().marks).get(event), within=30)

    def history(self) -> History:
        """The journal as it is now; only what is new is fetched."""
        text = self._exec("tail", "-c", f"+{self._read + 1}", self._journal)
        self._read += len(text)
        self._reader.feed(text)
        return self._reader.history

    def journal(self) -> str:
        """The whole journal as the writer wrote it."""
        return self._exec("cat", self._journal)

    def wait_acknowledged(self, number: int = WANTED, *, within: float = PROGRESS_WITHIN) -> None:
        """Return when that many more writes were acknowledged than when this was called."""
        before = self.history().acknowledged
        until(f"{number} acknowledged writes", lambda: self.history().acknowledged - before >= number, within=within)

    def wait_stalled(self, seconds: float, *, within: float = 60) -> None:
        """Return when no write was acknowledged for that long, by the host's clock."""
        seen = [-1]

        def still() -> bool:
            now = self._acknowledged()
            same, seen[0] = now == seen[0], now
            return same

        until("the writer stalls", lambda: still() and self._quiet(seconds), within=within)

    def stall(self, since: str, until_mark: str | None = None) -> Stall:
        """The longest stall between two marks (or from the first to now)."""
        history = self.history()
        return longest_stall(history, history.mark(since), history.mark(until_mark) if until_mark else None)

    def record(self, kind: Interruption, since: str, until_mark: str | None = None) -> float:
        """Put the longest stall between two marks on record as what that kind of event costs, in seconds."""
        seconds = self.stall(since, until_mark).seconds
        self.stalls[kind] = max(seconds, self.stalls.get(kind, 0.0))
        return seconds

    def stop(self, *, within: float = 60) -> History:
        """End the writer and return all it did; a write that hangs in the kernel is left behind as in flight."""
        self._exec("sh", "-c", f"echo stop > {self._control}")
        until("the writer's end", lambda: self.history().ended, within=within)
        history = self.history()
        idle = [name for name, time in history.marks if not history.in_flight(time)]
        assert not idle, f"no write was in flight at {idle}: nothing was shown there"
        return history

    def verify(self, device: str | None = None, *, within: float = 90) -> dict[str, Any]:
        """Read everything back on the initiator and return the judge's answer."""
        command = [
            "env",
            f"--chdir={HOME}",
            "/usr/bin/python3",
            "-m",
            "tests.checker.verify",
            "--journal",
            self._journal,
        ]
        if device:
            command += ["--device", device]
        done = self._lab.exec(self._initiator, *command, timeout=within, check=False)
        if not done.stdout.strip():
            raise AssertionError(f"the judge said nothing: {done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _acknowledged(self) -> int:
        text = self._exec("sh", "-c", f"grep -c '^a ' {self._journal} || true")
        return int(text.strip() or 0)

    def _quiet(self, seconds: float) -> bool:
        before = self._acknowledged()
        self._exec("sleep", str(seconds), within=seconds + 30)
        return self._acknowledged() == before

    def _install(self) -> None:
        """Copy the checker into the initiator; it has nothing of the checkout."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file in sorted((ROOT / "tests" / "checker").glob("*.py")):
                tar.add(file, arcname=f"tests/checker/{file.name}")
        # Base64, because what goes in and out of a node is text.
        script = f"mkdir -p {HOME} && base64 -d | tar -x -C {HOME}"
        self._lab.exec(self._initiator, "sh", "-c", script, input=b64encode(archive.getvalue()).decode(), timeout=60)

    def _exec(self, *command: str, within: float = 60) -> str:
        return str(self._lab.exec(self._initiator, *command, timeout=within).stdout)


def region_of(size: int, part: int) -> int:
    """The byte offset of the given eighth (0-7) of a disk, on a block's boundary."""
    return size * part // 8 // BLOCK * BLOCK
