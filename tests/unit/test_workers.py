"""Workers: one image that hangs or fails stops no other, and is tried again, later each time."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from agent.workers import SLOW, Workers
from gateway.errors import StorageUnavailable


def workers() -> tuple[Workers, threading.Semaphore]:
    """Two threads, and a semaphore that counts what is done."""
    done = threading.Semaphore(0)
    return Workers(slots=2, retry_first=1.0, retry_last=4.0, on_done=done.release), done


def test_a_hanging_image_keeps_only_itself_busy() -> None:
    """While one key's work hangs, it is not started twice and another key's work is done."""
    pool, done = workers()
    release, ran = threading.Event(), threading.Event()

    def hang() -> None:
        release.wait(10)

    assert pool.submit("stuck", hang)
    assert not pool.submit("stuck", ran.set)
    assert pool.submit("other", ran.set)
    assert ran.wait(10)
    assert done.acquire(timeout=10)
    assert pool.busy() == {"stuck"}
    release.set()
    assert done.acquire(timeout=10)
    assert not pool.busy()


def test_a_failure_is_told_and_postpones_the_next_try() -> None:
    """After a failure its reason stands in the report and the key rests; other keys do not."""
    pool, done = workers()

    def fail() -> None:
        raise StorageUnavailable("no answer")

    assert pool.submit("a", fail)
    assert done.acquire(timeout=10)
    assert pool.error("a") == "no answer"
    assert not pool.submit("a", fail)
    assert pool.submit("b", lambda: None)


def test_a_bug_in_one_image_does_not_kill_the_thread() -> None:
    """An exception that is none of ours is a failure like any other."""
    pool, done = workers()

    def stumble() -> None:
        raise KeyError("none of ours")

    for key in ("a", "b", "c"):
        assert pool.submit(key, stumble)
        assert done.acquire(timeout=10)
        assert pool.error(key) is not None


def test_what_hangs_gives_its_slot_away() -> None:
    """With every slot taken by work that hangs, other work begins once those count as slow; before, it waits."""
    done, hanging, ran = threading.Semaphore(0), threading.Event(), threading.Event()
    now = [100.0]
    pool = Workers(slots=2, retry_first=1.0, retry_last=4.0, on_done=done.release, clock=lambda: now[0])

    def hang() -> None:
        hanging.wait(10)

    for key in ("a", "b"):
        assert pool.submit(key, hang)
    assert pool.submit("c", ran.set)
    assert not pool.submit("c", ran.set)
    assert pool.busy() == {"a", "b", "c"}
    assert not ran.is_set()
    now[0] += SLOW
    pool.busy()
    assert ran.wait(10)
    assert done.acquire(timeout=10)
    assert pool.busy() == {"a", "b"}
    hanging.set()


def test_counting_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever measures drives no work: what waits goes on waiting, though a slot has become free."""
    now, begun = [100.0], list[str]()
    pool = Workers(slots=1, retry_first=1.0, retry_last=4.0, on_done=lambda: None, clock=lambda: now[0])
    monkeypatch.setattr(pool, "_start", lambda key, _: begun.append(key))
    assert pool.submit("a", lambda: None)
    assert pool.submit("b", lambda: None)
    now[0] += SLOW
    assert pool.count() == 2
    assert begun == ["a"]
    assert pool.busy() == {"a", "b"}
    assert begun == ["a", "b"]


def test_what_hangs_does_not_hold_up_the_end() -> None:
    """A process ends though a worker never comes back: the successor must be there before the tenure is over."""
    script = (
        "import threading; from agent.workers import Workers; begun = threading.Event();"
        "pool = Workers(slots=1, retry_first=1, retry_last=1, on_done=lambda: None);"
        "pool.submit('a', lambda: (begun.set(), threading.Event().wait())); begun.wait(10)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=20, check=False).returncode == 0
