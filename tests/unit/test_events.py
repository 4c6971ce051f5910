"""An event's form: it comes back as it was, is never larger than its slot, and never speaks to a terminal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadInput, BadSettings, NewerSchema
from gateway.events import LARGEST, Event, Kind, read_event, trace_of, write_event
from gateway.model import ImageName, Label
from gateway.store.events import SLOTS, EventStore
from gateway.store.keys import Keys
from tests.fakes.etcd import FakeEtcd

FULL = Event(
    kind=Kind.FENCE,
    text="fenced 2 clients of gw1",
    why="gw1's lease ran out",
    image="rbd/disk1",
    uid="0123456789abcdef",
    node="gw1",
    seconds=0.25,
    trace=trace_of(1234),
    who="gw2",
    time="2026-11-22T03:04:05.678Z",
    number=7,
    path=2,
    phases={"detect": 0.02, "fence": 0.14},
)

TEXT = st.text(max_size=3000)


def read(value: bytes) -> Event:
    """Read it as from slot `k`."""
    return read_event(value, "k", revision=0)


@pytest.mark.parametrize("event", [FULL, Event(Kind.NODE, "joined")])
def test_an_event_comes_back(event: Event) -> None:
    """Every field of an event survives its form."""
    assert read(write_event(event)) == event


@given(st.builds(Event, kind=st.sampled_from(Kind), text=TEXT, why=TEXT, image=TEXT, who=TEXT, trace=TEXT, node=TEXT))
def test_no_event_is_larger_than_its_slot(event: Event) -> None:
    """Whatever its texts are, an event takes 2 KiB at most, can be read, and is printable in one line."""
    value = write_event(event)
    assert len(value) <= LARGEST
    back = read(value)
    assert back.kind is event.kind
    assert all(text.isprintable() for text in (back.text, back.why, back.image, back.who, back.trace, back.node))


def test_a_long_text_is_cut() -> None:
    """What does not fit ends in dots, and the other fields stay whole."""
    back = read(write_event(Event(Kind.FAULT, "x" * 5000, why="short", image="rbd/disk1")))
    assert back.text.startswith("xxx")
    assert back.text.endswith("x...")
    assert (back.why, back.image) == ("short", "rbd/disk1")


def test_words_of_a_newer_version_are_passed_over() -> None:
    """A key nobody knows is ignored, and a kind nobody knows is `other`."""
    form = json.loads(write_event(FULL)) | {"colour": "red", "kind": "weather"}
    back = read(json.dumps(form).encode())
    assert (back.kind, back.text, back.seconds) == (Kind.OTHER, FULL.text, FULL.seconds)


def test_an_event_of_an_older_version_is_read() -> None:
    """An event without path and phases, as older versions wrote it, has none."""
    form = json.loads(write_event(FULL))
    old = {key: value for key, value in form.items() if key not in ("path", "phases")}
    assert read(json.dumps(old).encode()) == replace(FULL, path=0, phases={})


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"\xff", b"[]", b'{"schema":1}', b'{"schema":1,"number":1,"kind":"node"}']
)
def test_garbage_is_no_event(value: bytes) -> None:
    """What is no event is refused as bad input, never with another error."""
    with pytest.raises(BadInput):
        read(value)


def test_a_newer_schema_is_named() -> None:
    """An event of a newer schema says so."""
    form = json.loads(write_event(FULL)) | {"schema": 99}
    with pytest.raises(NewerSchema):
        read(json.dumps(form).encode())


def test_whom_an_event_concerns() -> None:
    """An image by its name or its uid, a node as the subject or the doer; no uid is nobody's."""
    assert FULL.concerns_image(ImageName("rbd", "disk1"), None)
    assert FULL.concerns_image(ImageName("rbd", "renamed"), FULL.uid)
    assert not FULL.concerns_image(ImageName("rbd", "disk2"), "f" * 16)
    assert not Event(Kind.NODE, "joined").concerns_image(ImageName("rbd", "disk1"), "")
    assert FULL.concerns_node(Label("gw1"))
    assert FULL.concerns_node(Label("gw2"))
    assert not FULL.concerns_node(Label("gw3"))


def test_the_log_holds_a_bad_night() -> None:
    """A crash of whoever holds 1,000 images and their fail-back, six events an image; and 2,048 slots grow into it."""
    assert SLOTS >= 6 * 1000
    assert SLOTS % 2048 == 0


def test_a_log_of_fewer_slots_goes_on() -> None:
    """However writers with more slots and older ones with fewer take turns, the newest events stay."""
    etcd = FakeEtcd(lambda: 0.0)
    older, newer = (EventStore(etcd, "/rbdgate/default/", slots=slots) for slots in (4, 16))
    count = 0
    for writer, events in ((older, 7), (newer, 30), (older, 3), (newer, 2), (older, 9), (newer, 1), (newer, 40)):
        for _ in range(events):
            count += 1
            writer.record([Event(Kind.NODE, str(count))])
            found = [int(event.text) for event in newer.read().events]
            assert found == sorted(found)
            assert found[-4:] == list(range(max(1, count - 3), count + 1))
    assert found == list(range(count - 15, count + 1))


def test_events_lie_beside_the_prefix() -> None:
    """No key of the log is under the cluster's prefix, and no cluster may live where another's log is."""
    keys = Keys("/rbdgate/default/")
    assert keys.event_slot(7) == "/rbdgate/default.events/slot/0007"
    assert not keys.event_counter.startswith(keys.prefix)
    for prefix in ("/rbdgate/default.events/", "/a.events/b/"):
        with pytest.raises(BadSettings, match="choose another name"):
            Keys(prefix)
