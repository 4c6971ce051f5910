"""The daemons' log: one line an event, with a priority for journald and a time for everybody else."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from agent import journal
from agent.chronicle import Chronicle
from gateway.events import Event, Kind
from gateway.model import Label


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is set up here is forgotten."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    yield
    structlog.reset_defaults()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[TextIO]:
    """A file in the place of standard error."""
    with (tmp_path / "stderr").open("w+") as stream:
        yield stream


def journal_of(stream: TextIO) -> dict[str, str]:
    """The environment of a service whose standard error journald reads."""
    found = os.fstat(stream.fileno())
    return {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}


def said(stream: TextIO) -> list[str]:
    """The lines in the file."""
    stream.flush()
    stream.seek(0)
    return stream.read().splitlines()


def test_under_journald_each_line_has_its_priority(file: TextIO) -> None:
    """The levels are syslog's priorities in front of the line, and no line has a time of its own."""
    journal.set_up("gw1", stream=file, environment=journal_of(file))
    log = structlog.get_logger("test")
    log.info("claimed", image="rbd/disk1", reason="its turn", trace="claim-7")
    log.warning("not fenced")
    log.error("lease gone", lease="1f")
    assert said(file) == [
        '<6>level=info event=claimed image=rbd/disk1 node=gw1 reason="its turn" trace=claim-7',
        '<4>level=warning event="not fenced" node=gw1',
        '<3>level=error event="lease gone" node=gw1 lease=1f',
    ]


def test_elsewhere_each_line_has_its_time(file: TextIO) -> None:
    """A terminal or a file gets the time with its offset instead; neither colours nor priorities."""
    journal.set_up("gw1", stream=file, environment={})
    structlog.get_logger("test").info("claimed")
    (line,) = said(file)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}[+-]\d\d:\d\d level=info event=claimed node=gw1", line)


def test_a_stream_that_was_sent_elsewhere_is_not_the_journal(file: TextIO) -> None:
    """A service whose standard error was redirected keeps JOURNAL_STREAM, which then names another file."""
    assert journal.is_journal(file, journal_of(file))
    assert not journal.is_journal(file, {"JOURNAL_STREAM": "8:1"})
    assert not journal.is_journal(file, {})
    assert not journal.is_journal(io.StringIO(), journal_of(file))


def test_an_exception_is_one_line(file: TextIO) -> None:
    """A traceback, and text with the ends of lines or terminal commands in it, stays on its line."""
    journal.set_up("gw1", stream=file, environment=journal_of(file))
    try:
        int("two\nlines and \x1b[31m red")
    except ValueError:
        structlog.get_logger("test").exception("bug in a step", error="a\r\nb")
    (line,) = said(file)
    assert line.startswith('<3>level=error event="bug in a step" node=gw1')
    assert "Traceback" in line
    assert "\x1b" not in line


def test_a_process_that_dies_of_a_bug_says_so_in_one_line(file: TextIO) -> None:
    """What Python would print over many lines without a priority is one critical event."""
    journal.set_up("gw1", stream=file, environment=journal_of(file))
    sys.excepthook(RuntimeError, RuntimeError("boom"), None)
    (line,) = said(file)
    assert line.startswith('<2>level=critical event="died of a bug" node=gw1')
    assert "boom" in line


@pytest.fixture(params=["gone", "full"])
def broken(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    """A standard error that nobody reads any more, and one on a full disk."""
    if request.param == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    stream = os.fdopen(descriptor, "w", buffering=1)
    yield stream
    with suppress(OSError):
        stream.close()


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else(broken: TextIO) -> None:
    """Neither a logger nor whoever tells an event hears of it, and the event is written to the cluster's log."""
    journal.set_up("gw1", stream=broken, environment={})
    structlog.get_logger("test").error("lease gone")
    sys.excepthook(RuntimeError, RuntimeError("boom"), None)
    chronicle = Chronicle(Paper(), Label("gw1"))
    chronicle.tell(Event(Kind.FAULT, "lost it", node="gw1"))
    assert chronicle.backlog() == (1, 0)


DEATH = """
import os, threading, time
from agent import journal, main
{setting}
threading.excepthook = main._end_at_once
threading.Thread(target=lambda: 1 / 0, name="lease-keeper").start()
time.sleep(20)
"""


@pytest.mark.parametrize(
    "setting",
    [
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 2); journal.set_up('gw1')",
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 2); journal.set_up('gw1')",
        "main.structlog.get_logger = lambda _: 1 / 0",
    ],
    ids=["gone", "full", "bug"],
)
def test_a_dead_thread_ends_the_agent_whatever_becomes_of_the_log(setting: str) -> None:
    """An agent without its lease keeper would look alive for as long as it cannot say so."""
    script = DEATH.format(setting=setting)
    assert subprocess.run([sys.executable, "-c", script], timeout=15, check=False).returncode == 70


class Paper:
    """An event log that nobody reads."""

    def record(self, events: object) -> None:
        """Take them."""


def test_each_event_of_the_cluster_is_a_line_here(file: TextIO) -> None:
    """A state change has image, path, node, reason, trace and seconds; one about another node says who told it."""
    journal.set_up("gw1", stream=file, environment=journal_of(file))
    chronicle = Chronicle(Paper(), Label("gw1"))
    down = Event(Kind.PATH, "path 2 is down", "no link", image="rbd/a", uid="1" * 16, node="gw1", trace="claim-7")
    chronicle.tell(replace(down, path=2))
    chronicle.tell(Event(Kind.NODE, "is not live any more", "its lease ran out", node="gw2"))
    phases = {"claim": 0.02, "fence": 0.1}
    chronicle.tell(
        Event(Kind.IMAGE, "serves it", image="rbd/a", node="gw1", seconds=0.5, trace="claim-7", phases=phases)
    )
    assert said(file) == [
        '<6>level=info event="path 2 is down" image=rbd/a path=2 node=gw1 reason="no link" trace=claim-7 kind=path'
        " uid=1111111111111111",
        '<6>level=info event="is not live any more" node=gw2 reason="its lease ran out" kind=node by=gw1',
        '<6>level=info event="serves it" image=rbd/a node=gw1 trace=claim-7 kind=image seconds=0.5 claim_s=0.02'
        " fence_s=0.1",
    ]
