"""Events on the command line: what is recorded of a command, who did it, and what `events` shows."""

from __future__ import annotations

import getpass
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from gateway.cli import recording
from gateway.cli.recording import LOOKS, operator
from gateway.cli.values import parse_since
from gateway.errors import BadInput, OutcomeUnknown
from gateway.events import Event, Kind
from gateway.store.events import EventStore, Log
from gateway.store.values import Put
from tests.unit.command_line import command_parsers
from tests.unit.test_cli import Terminal, terminal

__all__ = ["terminal"]

IQN = "iqn.1993-08.org.debian:01:abc"


def log_of(terminal: Terminal) -> EventStore:
    """The cluster's log."""
    return terminal.made.store.events()


def record(terminal: Terminal, *events: Event) -> None:
    """Have agents tell something."""
    log_of(terminal).record(events)


def told(terminal: Terminal) -> list[str]:
    """What is in the log."""
    return [event.text for event in log_of(terminal).read().events]


def test_what_an_operator_does_is_recorded(terminal: Terminal) -> None:
    """Each command that was accepted is one event with its words, its image and who ran it; looking is none."""
    for line in (
        "image create rbd/disk1 --size 1G --paths 2 --json",
        f"initiator allow rbd/disk1 {IQN} --timeout 30",
        "status --json",
        "image show rbd/disk1",
        "node list",
        "image move rbd/disk1 --no-wait",
    ):
        assert terminal.run(line) == 0, terminal.error
    events = log_of(terminal).read().events
    assert [event.text for event in events] == [
        "rbdgate image create rbd/disk1 --size 1G --paths 2",
        f"rbdgate initiator allow rbd/disk1 {IQN}",
        "rbdgate image move rbd/disk1",
    ]
    assert {(event.kind, event.image) for event in events} == {(Kind.OPERATOR, "rbd/disk1")}
    assert all(event.who.startswith(f"operator {getpass.getuser()}@gw9") for event in events)


def test_a_reason_is_told_as_the_reason(terminal: Terminal) -> None:
    """`--reason` is the event's why, and the node the one that was named."""
    assert terminal.run("node drain gw1 --reason=new_memory --timeout 60") == 0, terminal.error
    event = log_of(terminal).read().events[0]
    assert (event.text, event.why, event.node) == ("rbdgate node drain gw1", "new_memory", "gw1")


def test_a_refused_command_is_not_recorded(terminal: Terminal) -> None:
    """What was refused, or was wrong usage, leaves no event."""
    assert terminal.run("image move rbd/none") == 1
    assert terminal.run("image create rbd/x") == 2
    assert told(terminal) == []


def test_a_dry_run_is_not_recorded(terminal: Terminal) -> None:
    """Asking what would be done does nothing that is worth an event."""
    assert terminal.run("image rebalance --dry-run") == 0, terminal.error
    assert told(terminal) == []


def test_a_command_is_recorded_before_it_waits(terminal: Terminal) -> None:
    """A command whose end is waited for stands in the log before the wait, once, though that end is not reached."""
    for agent in terminal.made.agents:
        agent.broken = "no such device"
    assert terminal.run("image create rbd/disk1 --size 1G --timeout 1") == 3
    assert told(terminal) == ["rbdgate image create rbd/disk1 --size 1G"]


def test_an_event_that_cannot_be_written_is_a_warning(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command goes on and succeeds; the warning names the reason."""

    def fail(*_: object) -> None:
        raise OutcomeUnknown("etcd7 did not answer")

    monkeypatch.setattr(EventStore, "record", fail)
    assert terminal.run("image create rbd/disk1 --size 1G") == 0
    assert "is not in the log of events: etcd7 did not answer" in terminal.out


def test_a_doubtful_command_is_recorded_as_such(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody knows whether it was done, the event says so."""
    assert terminal.run("image create rbd/disk1 --size 1G") == 0

    def fail(*_: object) -> None:
        raise OutcomeUnknown("no answer")

    monkeypatch.setattr(terminal.made.store, "request_move", fail)
    assert terminal.run("image move rbd/disk1") == 1
    event = log_of(terminal).read().events[-1]
    assert event.text == "rbdgate image move rbd/disk1"
    assert "not known" in event.why


def test_every_command_is_known_to_look_or_to_change() -> None:
    """`LOOKS` names commands by the words their parsers have: all that look by their last word, and no other."""
    parsers = command_parsers()
    for words, parser in parsers.items():
        assert parser.get_default("words") == words
    last_words = ("list", "show", "status", "events", "doctor", "plan")
    assert {words for words in parsers if words.split()[-1] in last_words} == LOOKS


def test_who_an_operator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The login name and the node, and who it was before sudo or su."""
    monkeypatch.setattr(recording, "_login", lambda uid: "root")
    monkeypatch.setattr(recording, "_first_login", lambda: "")
    assert operator("gw1", {}) == "operator root@gw1"
    assert operator("gw1", {"SUDO_USER": "ann"}) == "operator root@gw1 (via sudo: ann)"
    assert operator("gw1", {"SUDO_USER": "root"}) == "operator root@gw1"
    monkeypatch.setattr(recording, "_first_login", lambda: "bob")
    assert operator("gw1", {}) == "operator root@gw1 (via sudo: bob)"


CLAIMED = Event(
    Kind.IMAGE, "claimed", "its turn", image="rbd/disk1", uid="1" * 16, node="gw1", trace="claim-7", who="gw1"
)
SERVES = Event(
    Kind.IMAGE, "serves it", image="rbd/disk1", uid="1" * 16, node="gw1", seconds=0.611, trace="claim-7", who="gw1"
)
GONE = Event(Kind.NODE, "is not live any more", node="gw2", who="gw1")


def test_what_people_read(terminal: Terminal) -> None:
    """One line an event, the newest last: time, age, who, about what, seconds and trace in brackets, the reason."""
    record(terminal, CLAIMED, GONE, SERVES)
    assert terminal.run("events") == 0
    lines = terminal.out.splitlines()
    assert lines[0].split() == ["TIME", "AGE", "WHO", "ABOUT", "WHAT"]
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "? ? gw1 rbd/disk1 claimed [claim-7]: its turn",
        "? ? gw1 gw2 is not live any more",
        "? ? gw1 rbd/disk1 serves it [0.61 s, claim-7]",
    ]


def test_what_scripts_read(terminal: Terminal) -> None:
    """With --json every field is there under its documented name."""
    record(terminal, CLAIMED)
    event = terminal.json("events")[0]
    assert set(event) == {
        *("number", "time", "who", "kind", "image", "uid", "node", "path", "text", "why", "seconds", "phases"),
        *("trace", "revision"),
    }
    assert (event["kind"], event["number"], event["seconds"]) == ("image", 1, None)


def test_events_of_an_image_or_a_node(terminal: Terminal) -> None:
    """A name with a slash is an image, also by its uid where the name was another; one without is a node."""
    assert terminal.run("image create rbd/disk1 --size 1G") == 0
    uid = next(iter(terminal.made.store.view().images.values())).uid
    renamed = Event(Kind.IMAGE, "under its old name", image="rbd/old", uid=uid, who="gw3")
    record(terminal, renamed, GONE, Event(Kind.IMAGE, "another's", image="rbd/disk2", who="gw3"))
    assert [event["text"].split()[0] for event in terminal.json("events rbd/disk1")] == ["rbdgate", "under"]
    assert [event["text"] for event in terminal.json("events gw2")] == ["is not live any more"]
    assert [event["text"] for event in terminal.json("events gw3")] == ["under its old name", "another's"]
    record(terminal, Event(Kind.NODE, "joined", node="gw9", who="gw9", time="2026-11-22T03:00:00+00:00"))
    assert terminal.json("events gw9 --since 2099-01-01") == []
    assert terminal.run("events gw9 --since 2099-01-01") == 0
    assert terminal.out == "no such event\n"
    for name, kind in (("rbd/dsik1", "image"), ("gw33", "node")):  # a slip of the pen is no quiet night
        assert terminal.run(f"events {name}") == 1
        assert f"there is no {kind} {name} in this cluster, and the log of events knows none" in terminal.error


def test_events_since_and_how_many(terminal: Terminal) -> None:
    """`--since` takes a period or a time, and `--limit` the newest of what is left; no time counts as recent."""
    now = datetime.now(UTC)
    ages = {"old": 10, "late": 2, "new": 0}
    for text, hours in ages.items():
        record(terminal, Event(Kind.NODE, text, time=(now - timedelta(hours=hours, minutes=1)).isoformat()))
    record(terminal, Event(Kind.NODE, "timeless", time="noon"))

    def shown(options: str) -> list[str]:
        return [event["text"] for event in terminal.json(f"events {options}")]

    assert shown("--since 3h") == ["late", "new", "timeless"]
    assert shown("--since 1d") == ["old", "late", "new", "timeless"]
    assert shown("--since " + (now - timedelta(hours=1)).isoformat()) == ["new", "timeless"]
    assert shown("--limit 2") == ["new", "timeless"]
    assert shown("--since 3h --limit 2") == ["new", "timeless"]


@pytest.mark.parametrize("text", ["soon", "", "5x", "-1h", "2026-13-01"])
def test_a_time_that_is_none_is_wrong_usage(terminal: Terminal, text: str) -> None:
    """What cannot be a time is refused with how to write one."""
    with pytest.raises(BadInput, match="write how long ago"):
        parse_since(text)


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """As all times that are printed; one as it is printed, with its offset, is taken as well."""
    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        assert parse_since("2026-11-22T03:00") == datetime(2026, 11, 22, 0, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert parse_since("2026-11-22 03:00:01.000+01:00") == datetime(2026, 11, 22, 2, 0, 1, tzinfo=UTC)
    assert parse_since("2026-11-22T03:00+01:00") == datetime(2026, 11, 22, 2, tzinfo=UTC)


def test_damaged_entries_are_a_warning(terminal: Terminal) -> None:
    """What cannot be read is counted, and the rest is shown."""
    record(terminal, CLAIMED, GONE)
    store = terminal.made.store
    terminal.made.etcd.transact([], [Put(store.keys.event_slot(1), b"\xff")])
    assert terminal.run("events") == 0
    assert "1 entries of the log of events cannot be read" in terminal.out
    assert "is not live any more" in terminal.out


def test_following(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is, then each event as it comes, once, one JSON document a line; a silent etcd is waited out."""
    record(terminal, CLAIMED)
    steps = iter([lambda: record(terminal, GONE, SERVES), lambda: None, "down", "up", KeyboardInterrupt])

    def sleep(_: float) -> None:
        step = next(steps)
        if step is KeyboardInterrupt:
            raise KeyboardInterrupt
        if isinstance(step, str):
            terminal.made.etcd.down = step == "down"
        elif callable(step):
            step()

    monkeypatch.setattr(terminal.made, "_sleep", sleep)
    assert terminal.run("events --follow --json") == 130
    lines = [line for line in terminal.out.splitlines() if line.startswith("{")]
    assert [json.loads(line)["text"] for line in lines] == ["claimed", "is not live any more", "serves it"]
    assert terminal.out.count("no etcd member answered") == 1


def test_an_empty_log_is_an_empty_log(terminal: Terminal) -> None:
    """Before anything was written there is nothing, and no error."""
    assert log_of(terminal).read() == Log((), 0)
    assert terminal.json("events") == []


def test_an_image_is_named_once(terminal: Terminal) -> None:
    """`--image` and `--node` say the same as the plain name; one of them is enough."""
    record(terminal, CLAIMED, GONE)
    assert terminal.json("events --image rbd/disk1") == terminal.json("events rbd/disk1") != []
    assert terminal.json("events --node gw2") == terminal.json("events gw2") != []
    for line in ("events rbd/disk1 --image rbd/disk1", "events --image rbd/disk1 --node gw1", "events --image gw1"):
        assert terminal.run(line) == 2
