"""Workers: one image that hangs or fails stops no other, and is tried again, later each time."""

from __future__ import annotations

import threading

from agent.workers import Workers
from gateway.errors import StorageUnavailable


def workers() -> tuple[Workers, threading.Semaphore]:
    """Two threads, and a semaphore that counts what is done."""
    done = threading.Semaphore(0)
    return Workers(threads=2, retry_first=1.0, retry_last=4.0, on_done=done.release), done


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
