"""The checker against a real disk: a loop device, the real writer, O_DIRECT, the real judge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checker.block import BLOCK, encode
from tests.checker.journal import parse

ROOT = Path(__file__).parents[2]
BLOCKS = 32
OFFSET = 64 * BLOCK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A loop device of 1 MiB, gone afterwards."""
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(256 * BLOCK))
    losetup = ["losetup", "--find", "--show", "--direct-io=off", str(backing)]
    device = subprocess.run(losetup, capture_output=True, text=True, check=True).stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def written(disk: str, tmp_path: Path) -> Path:
    """The journal of a run that wrote every block of the region at least twice."""
    journal, control = tmp_path / "journal", tmp_path / "control"
    arguments = ["--device", disk, "--journal", journal, "--control", control, "--offset", OFFSET, "--blocks", BLOCKS]
    command = [sys.executable, "-m", "tests.checker.writer", *map(str, arguments), "--lanes", "2", "--rate", "500"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        deadline = time.monotonic() + 20
        while not journal.exists() or journal.read_text().count("\na ") < 3 * BLOCKS:
            assert time.monotonic() < deadline, "the writer made no progress"
            time.sleep(0.02)
        control.write_text("mark half\n")
        while "m half" not in journal.read_text():
            assert time.monotonic() < deadline, "the mark was not taken"
            time.sleep(0.02)
        writer.send_signal(signal.SIGTERM)
        said, _ = writer.communicate(timeout=10)
    assert writer.returncode == 0
    assert json.loads(said)["acknowledged_writes"] >= 3 * BLOCKS
    return journal


def verdict(journal: Path) -> dict[str, object]:
    """What the judge prints, its exit status checked against it."""
    command = [sys.executable, "-m", "tests.checker.verify", "--journal", str(journal)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    answer: dict[str, object] = json.loads(done.stdout)
    assert (done.returncode == 0) == answer["clean"]
    return answer


def overwrite(device: str, block: int, data: bytes) -> None:
    """Change a block behind the writer's back."""
    with open(device, "r+b") as disk:
        disk.seek(OFFSET + block * BLOCK)
        disk.write(data)
        disk.flush()
        os.fsync(disk.fileno())


def test_a_run_on_an_honest_disk_is_clean(written: Path) -> None:
    """Everything the writer was told is there is found by the judge, and the region's neighbours are untouched."""
    answer = verdict(written)
    assert answer["clean"] is True
    assert answer["lost_writes"] == 0


def test_a_block_changed_behind_its_back_is_reported(written: Path, disk: str) -> None:
    """An older value of the same run is reported as stale, garbage as foreign, each on its own block."""
    history = parse(written.read_text().splitlines(keepends=True))
    first = min(write.sequence for write in history.writes.values() if write.block == 3)
    overwrite(disk, 3, encode(history.run.run, 3, first))
    overwrite(disk, 5, b"\xff" * BLOCK)
    answer = verdict(written)
    assert answer["stale_blocks"] == [3]
    assert answer["foreign_blocks"] == [5]
    assert int(str(answer["lost_writes"])) >= 2


def test_an_acknowledged_record_added_by_hand_is_reported(written: Path) -> None:
    """A journal that claims one more acknowledged write than there was makes the judge report it as lost."""
    with written.open("a") as journal:
        journal.write("a 0 4 99999999 1\n")
    answer = verdict(written)
    assert (answer["stale_blocks"], answer["lost_writes"]) == ([4], 1)


def test_a_stale_block_is_seen_while_the_run_goes_on(disk: str, tmp_path: Path) -> None:
    """A block that goes back to an older value and is overwritten later is on record all the same."""
    journal = tmp_path / "journal"
    arguments = ["--device", disk, "--journal", str(journal), "--blocks", "2", "--read-every", "1", "--rate", "20"]
    command = [sys.executable, "-m", "tests.checker.writer", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as writer:
        deadline = time.monotonic() + 20
        while not journal.exists() or " -1 -1 " not in journal.read_text():
            assert time.monotonic() < deadline, "the planted block was never seen"
            with open(disk, "r+b", buffering=0) as raw:
                raw.write(b"\xee" * BLOCK)
            time.sleep(0.05)
        writer.send_signal(signal.SIGTERM)
        writer.wait(10)
    assert verdict(journal)["foreign_blocks"] == [0]
