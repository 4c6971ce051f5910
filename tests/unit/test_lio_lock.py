"""The lock that keeps writers to configfs apart."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from gateway.errors import Stuck
from gateway.lio.dump import without_secrets
from gateway.lio.lock import ConfigfsLock, LockHolder


class Time:
    """A clock that only a sleep moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds


@pytest.fixture
def time() -> Time:
    """A clock at 0."""
    return Time()


def lock(path: Path, time: Time) -> ConfigfsLock:
    """The lock on that clock."""
    return ConfigfsLock(path, clock=time.clock, sleep=time.sleep)


def test_the_holder_is_named_while_it_holds_and_not_after(tmp_path: Path, time: Time) -> None:
    """The file says pid and start time within, and nothing afterwards."""
    it = lock(tmp_path / "lock", time)
    assert it.holder() is None
    with it.held(1.0):
        holder = it.holder()
        assert holder is not None
        assert holder.pid == os.getpid()
        assert holder.start > 0
    assert it.holder() is None


def test_it_is_free_again_after_an_error_within(tmp_path: Path, time: Time) -> None:
    """An exception inside releases the lock."""
    it = lock(tmp_path / "lock", time)
    with pytest.raises(RuntimeError), it.held(1.0):
        raise RuntimeError
    with it.held(0.0):
        pass


def test_another_process_that_keeps_it_is_named_at_the_deadline(tmp_path: Path, time: Time) -> None:
    """Stuck comes when the time is over, not before, and names the holder's pid."""
    path = tmp_path / "lock"
    with path.open("w") as other:  # flock belongs to the open file, so this counts as another process
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(json.dumps([4711, 99]))
        other.flush()
        it = lock(path, time)
        assert it.holder() == LockHolder(4711, 99)
        with pytest.raises(Stuck, match="pid 4711 kept the lock"), it.held(0.5):
            pass
    assert 0.5 <= time.now < 0.6
    with it.held(0.0):
        pass


def test_another_thread_that_keeps_it_is_waited_for(tmp_path: Path, time: Time) -> None:
    """Two threads of one process never hold it at once, and the wait of the second ends with Stuck."""
    it = lock(tmp_path / "lock", time)
    refused: list[str] = []

    def second() -> None:
        try:
            with it.held(0.01):
                refused.append("held")
        except Stuck as error:
            refused.append(str(error))

    with it.held(1.0):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(10.0)
    assert len(refused) == 1
    assert "another thread" in refused[0]


def test_a_garbled_file_names_nobody(tmp_path: Path, time: Time) -> None:
    """A text that was cut off while it was written is no holder."""
    path = tmp_path / "lock"
    for text in ("", "[47", "[]", "47", '["a"]'):
        path.write_text(text)
        assert lock(path, time).holder() is None


def test_a_dump_shows_no_secret() -> None:
    """Every CHAP name and password is masked, wherever it stands; empty ones say that there is none."""
    dump = {"targets": [{"chap_password": "secret", "tpgs": [{"chap_userid": "me", "chap_mutual_password": ""}]}]}
    masked = without_secrets(dump)
    assert "secret" not in json.dumps(masked)
    assert masked["targets"][0]["tpgs"][0] == {"chap_userid": "***", "chap_mutual_password": ""}
