"""`rbdgate reservation`: what is recorded as people and scripts see it, and changes of it by hand."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace

import pytest

from gateway.actions import reservations
from gateway.cli import main as program
from gateway.errors import KernelRefused, StorageUnavailable
from gateway.lio.logins import Session as Login
from gateway.model import ImageName, ImageSpec, Iqn
from gateway.reservations.pr_info import decode, encode
from gateway.reservations.state import Nexus, Registration, Reservation, ReservationState, ReservationType
from tests.fakes.ceph import FakeImage
from tests.fakes.operation import operation
from tests.unit.test_cli import Terminal

NAME = ImageName.parse("rbd/disk1")
A, B = Iqn("iqn.1993-08.org.debian:01:a"), Iqn("iqn.1991-05.com.microsoft:b")
ISID = "00023d000001"


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Two gateways that serve one image, at which an initiator is allowed."""
    terminal = Terminal(operation(), capsys)
    assert terminal.run(f"image create {NAME} --size 1G") == 0
    assert terminal.run(f"initiator allow {NAME} {A}") == 0
    return terminal


def spec_in(terminal: Terminal) -> ImageSpec:
    """The image's spec."""
    return terminal.made.store.image(NAME)[0]


def table_of(spec: ImageSpec) -> ReservationState:
    """A holds and is registered at both paths, once for any session; B, which is not allowed, is stale, and so on."""
    iqn, other = spec.identity.iqn, Iqn("iqn.2016-05.com.petasan:00001")
    held = Nexus(A, ISID, iqn, 1)
    registrations = (
        Registration(held, 0xABC1, since=1767225600),
        Registration(Nexus(A, "", iqn, 2), 0xABC1, all_tg_pt=True),
        Registration(Nexus(B, "40000137", iqn, 1), 2**64 - 1),
        Registration(Nexus(A, ISID, iqn, 9), 1, since=10**18),
        Registration(Nexus(A, ISID, other, 1), 1),
    )
    kind = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    return ReservationState(5, 7, registrations, Reservation(kind, held, 0xABC1, since=1767225660))


def record(terminal: Terminal, state: ReservationState | bytes) -> None:
    """Put a table into the image's header."""
    text = state if isinstance(state, bytes) else encode(state)
    terminal.made.ceph.pr_info[spec_in(terminal).image_id] = text


def recorded(terminal: Terminal) -> ReservationState:
    """What stands there."""
    return decode(terminal.made.ceph.pr_info[spec_in(terminal).image_id])


def test_an_image_that_was_never_registered_at(terminal: Terminal) -> None:
    """Nothing is recorded, and nothing can be cleared or forgotten."""
    assert terminal.json(f"reservation show {NAME}")["registrations"] == []
    (row,) = terminal.json("reservation list")
    assert (row["type"], row["held_by"], row["registrations"], row["damaged"]) == (None, None, 0, "")
    assert terminal.run(f"reservation clear {NAME} --reason x") == 1
    assert "has no registrations: there is nothing to clear" in terminal.error
    assert terminal.run(f"reservation forget {NAME} {A},i,any,t,0x1 --reason x") == 1
    assert "registered are: none" in terminal.error


def test_who_is_registered(terminal: Terminal) -> None:
    """Each with its session, path, key and time; what is stale says why."""
    record(terminal, table_of(spec_in(terminal)))
    shown = terminal.json(f"reservation show {NAME}")
    assert (shown["type"], shown["held_by"], shown["held_since"]) == (
        "write exclusive registrants only",
        str(A),
        "2026-01-01T00:01:00Z",
    )
    first, peer, stranger, nowhere, elsewhere = shown["registrations"]
    assert first == {
        "nexus": f"{A},i,0x{ISID},t,0x1",
        "initiator": str(A),
        "isid": ISID,
        "target": shown["iqn"],
        "tag": 1,
        "portal": "10.0.1.100:3260",
        "key": "0x000000000000abc1",
        "all_tg_pt": False,
        "since": "2026-01-01T00:00:00Z",
        "holds": True,
        "stale": "",
        "other_sessions": [],
    }
    assert (peer["nexus"], peer["isid"], peer["since"], peer["stale"]) == (f"{A},i,any,t,0x2", None, None, "")
    assert (stranger["isid"], stranger["stale"]) == ("40000137", f"{B} is not allowed at the image")
    assert (nowhere["stale"], nowhere["portal"]) == ("the image has no path 9", None)
    assert elsewhere["stale"] == "it was made at another target, iqn.2016-05.com.petasan:00001"
    assert terminal.run(f"reservation show {NAME}") == 0
    lines = terminal.out.splitlines()
    assert lines[2].startswith("reservation  write exclusive registrants only, iqn.1993-08.org.debian:01:a, since 2026")
    (peer_line,) = [line for line in lines if line.startswith(f"{A},i,any")]
    assert "any session" in peer_line
    assert "2 [fd77:2::100]:3260" in peer_line
    assert "not known" in peer_line
    (row,) = terminal.json("reservation list")
    assert (row["registrations"], row["stale"], row["nearly_full"]) == (5, 3, False)
    assert terminal.run("reservation list") == 0
    assert "write exclusive registrants only  iqn.1993-08.org.debian:01:a  5           3" in terminal.out


def test_all_registrants_hold(terminal: Terminal) -> None:
    """The types that all registrants hold name nobody."""
    state = table_of(spec_in(terminal))
    assert state.reservation is not None
    everybody = replace(state.reservation, type=ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)
    record(terminal, replace(state, reservation=everybody))
    shown = terminal.json(f"reservation show {NAME}")
    assert shown["held_by"] == "all registrants"
    assert all(each["holds"] for each in shown["registrations"])


def test_another_session_is_seen_by_the_holder_alone(terminal: Terminal) -> None:
    """There it is told with its ISID; elsewhere the command says who knows; unreadable is not nobody."""
    record(terminal, table_of(spec_in(terminal)))
    holder = terminal.json(f"image show {NAME}")["holder"]
    assert f"only {holder}, which holds the image, knows" in terminal.json(f"reservation show {NAME}")["note"]
    other = Login(1, A, "00023d000002", None)

    def logged_in(*found: Login) -> None:
        terminal.node, terminal.logins = holder, lambda _iqn: found

    logged_in(other)
    shown = terminal.json(f"reservation show {NAME}")
    assert shown["note"] == ""
    assert [each["other_sessions"] for each in shown["registrations"]] == [["00023d000002"], [], [], [], []]
    assert terminal.run(f"reservation show {NAME}") == 0
    assert "logged in there with ISID 00023d000002, which is not registered" in terminal.out
    logged_in(replace(other, isid=ISID), replace(other, tag=2))
    assert not any(each["other_sessions"] for each in terminal.json(f"reservation show {NAME}")["registrations"])

    def refuse(_iqn: Iqn) -> Collection[Login]:
        raise KernelRefused("permission denied")

    terminal.logins = refuse
    assert "could not be read: permission denied" in terminal.json(f"reservation show {NAME}")["note"]


def test_a_damaged_table(terminal: Terminal) -> None:
    """It is told with its line and the way out, and clearing is one; forgetting is refused with it."""
    record(terminal, encode(table_of(spec_in(terminal))).replace(b"0x0000000000000001 ", b"junk ", 1))
    (row,) = terminal.json("reservation list")
    assert "line 9" in row["damaged"]
    assert terminal.run("reservation list") == 0
    assert "damaged: pr_info is damaged: line 9" in terminal.out
    assert terminal.run(f"reservation show {NAME}") == 0
    assert f"`rbdgate reservation clear {NAME} --reason TEXT` empties the table" in terminal.out
    assert terminal.run(f"reservation forget {NAME} {A},i,any,t,0x2 --reason x") == 1
    assert "who is registered is not known: pr_info is damaged: line 9" in terminal.error
    cleared = terminal.json(f"reservation clear {NAME} --reason gone")
    assert (cleared["registrations"], cleared["damaged"], cleared["pending"]) == ([], "", None)
    assert (recorded(terminal).sequence, recorded(terminal).generation) == (6, 8)


def test_forget(terminal: Terminal) -> None:
    """The one that is named goes, with what it held, and the others stay; the event keeps the reason."""
    record(terminal, table_of(spec_in(terminal)))
    assert terminal.run(f"reservation forget {NAME} {A},i,0x{ISID},t,0x3 --reason x") == 1
    assert f"registered are: {A},i,0x{ISID},t,0x1, " in terminal.error
    assert terminal.error.rstrip().endswith(", and 2 more")
    after = terminal.json(f"reservation forget {NAME} {A},i,0x{ISID},t,0x1 --reason gone")
    assert (after["type"], len(after["registrations"])) == (None, 4)
    foreign = terminal.json(f"reservation show {NAME}")["registrations"][-1]["nexus"]
    assert foreign == f"{A},i,0x{ISID},iqn.2016-05.com.petasan:00001,t,0x1"
    assert len(terminal.json(f"reservation forget {NAME} {foreign} --reason gone")["registrations"]) == 3
    event = terminal.json("events rbd/disk1")[-1]
    assert event["text"] == f"rbdgate reservation forget {NAME} {foreign}"
    assert event["why"] == "gone"


def test_a_change_waits_for_its_holder(terminal: Terminal) -> None:
    """Until it is made it is pending and nobody else's is taken; a clear takes the place of a forget."""
    record(terminal, table_of(spec_in(terminal)))
    for agent in terminal.made.agents:
        agent.stuck = True
    assert terminal.run(f"reservation forget {NAME} {A},i,any,t,0x2 --reason gone --timeout 2") == 3
    assert "has not made the change yet" in terminal.error
    pending = terminal.json(f"reservation show {NAME}")["pending"]
    assert pending.startswith(f"forget {A},i,any,")
    assert pending.endswith(": gone")
    assert terminal.run(f"reservation forget {NAME} {A},i,any,t,0x2 --reason again") == 1
    assert "another change of its reservations is pending" in terminal.error
    assert terminal.run(f"reservation clear {NAME} --reason all --no-wait") == 0
    assert "pending" in terminal.out
    for agent in terminal.made.agents:
        agent.stuck = False
    terminal.made.settle()
    assert terminal.json(f"reservation show {NAME}")["registrations"] == []


def test_nobody_holds_the_image(terminal: Terminal) -> None:
    """Then the change waits, which is said and not waited for, and the next taker makes it."""
    record(terminal, table_of(spec_in(terminal)))
    assert terminal.run(f"image stop {NAME}") == 0
    assert terminal.run(f"reservation clear {NAME} --reason gone") == 0
    assert "nobody holds image rbd/disk1 now: the change waits until it is taken up" in terminal.out
    assert len(recorded(terminal).registrations) == 5
    assert terminal.run(f"image start {NAME}") == 0
    terminal.made.settle()
    assert recorded(terminal).registrations == ()


def test_ceph_does_not_answer(terminal: Terminal) -> None:
    """What is not answered is unknown, and asked once a pool; a clear is accepted all the same."""
    assert terminal.run("image create rbd/disk2 --size 1G") == 0
    record(terminal, table_of(spec_in(terminal)))
    ceph = terminal.made.ceph
    ceph.fail["read_pr_info"] = StorageUnavailable("Ceph did not answer")
    ceph.acts.clear()
    assert [row["unknown"] for row in terminal.json("reservation list")] == ["Ceph did not answer"] * 2
    assert ceph.acts == ["read_pr_info"]
    assert terminal.run(f"reservation show {NAME}") == 1
    assert terminal.run(f"reservation forget {NAME} {A},i,any,t,0x2 --reason x") == 1
    assert terminal.run(f"reservation clear {NAME} --reason gone --no-wait") == 0
    assert "is accepted; what is recorded cannot be read: Ceph did not answer" in terminal.out
    assert terminal.made.store.view().amendments


def test_an_image_on_its_way_out_is_left_alone(terminal: Terminal) -> None:
    """Its table goes with it."""
    record(terminal, table_of(spec_in(terminal)))
    spec, revision = terminal.made.store.image(NAME)
    terminal.made.store.replace_image(spec, replace(spec, deleting=True), revision)
    assert terminal.run(f"reservation clear {NAME} --reason x") == 1
    assert "is being deleted" in terminal.error


def test_a_reason_is_needed(terminal: Terminal) -> None:
    """Without one, or with an empty one, it is wrong usage."""
    assert terminal.run(f"reservation clear {NAME}") == program.USAGE
    assert terminal.run(f"reservation clear {NAME} --reason=") == program.USAGE
    assert reservations.listed(terminal.made.store, terminal.made.ceph)


def test_what_an_image_does_about_reservations(terminal: Terminal) -> None:
    """Both can be turned off and on, in the spec and its copy; the holder's export by the new spec is waited for."""
    assert terminal.run(f"image set {NAME}") == program.USAGE
    assert terminal.json(f"image set {NAME} --enforce-isids off")["state"] == "serving"
    assert terminal.json(f"image set {NAME} --reservations off")["state"] == "serving"
    attributes = spec_in(terminal).attributes
    assert (attributes.emulate_pr, attributes.enforce_pr_isids) == (0, 0)
    assert terminal.made.ceph.copies[spec_in(terminal).image_id].attributes == attributes
    shown = terminal.json(f"reservation show {NAME}")
    assert (shown["enabled"], shown["enforce_isids"]) == (False, False)
    assert terminal.run(f"reservation show {NAME}") == 0
    assert "ISIDs         not enforced" in terminal.out
    assert "reservations  off" in terminal.out
    assert terminal.json(f"image set {NAME} --reservations on --enforce-isids on")["state"] == "serving"
    attributes = spec_in(terminal).attributes
    assert (attributes.emulate_pr, attributes.enforce_pr_isids) == (1, 1)


def test_reservations_stay_on_while_somebody_is_registered(terminal: Terminal) -> None:
    """Or may be: an answer that does not come, or that nobody understands, is not an empty table."""
    record(terminal, table_of(spec_in(terminal)))
    assert terminal.run(f"image set {NAME} --reservations off") == 1
    assert f"{A},i,0x{ISID},t,0x1 and 4 more; have them unregistered first" in terminal.error
    assert terminal.json(f"image set {NAME} --enforce-isids off")["state"] == "serving"
    record(terminal, b"junk")
    assert terminal.run(f"image set {NAME} --reservations off") == 1
    assert "who is registered is not known" in terminal.error
    terminal.made.ceph.fail["read_pr_info"] = StorageUnavailable("Ceph did not answer")
    assert terminal.run(f"image set {NAME} --reservations off") == 1
    assert spec_in(terminal).attributes.emulate_pr == 1


PETASAN = "iqn.2016-05.com.petasan:00001"


def adopted(terminal: Terminal, text: bytes, words: str = "") -> int:
    """An image with that record, adopted with a kept name and two kept tags; the exit status."""
    terminal.made.ceph.images[ImageName.parse("rbd/image-00001")] = FakeImage("idp", 1 << 30)
    terminal.made.ceph.pr_info["idp"] = text
    paths = "--path 1=10.0.1.103 --path 2=fd77:2::1ff"
    return terminal.run(f"image adopt rbd/image-00001 --iqn {PETASAN} --serial 00001 {paths} {words}")


def test_an_adopted_image_brings_its_reservations(terminal: Terminal) -> None:
    """What was registered at the kept name and tags will be in force; the rest says why it cannot be."""
    text = encode(
        ReservationState(
            registrations=(
                Registration(Nexus(A, "40000137", Iqn(PETASAN), 2), 0xABC1),
                Registration(Nexus(A, "40000137", Iqn(PETASAN), 3), 0xABC1),
                Registration(Nexus(A, "40000137", Iqn("iqn.2016-05.com.petasan:00002"), 1), 0xABC1),
            )
        )
    )
    assert adopted(terminal, text) == 0
    assert f"{A},i,0x40000137,t,0x2" in terminal.out
    assert f"in force when {A} is allowed" in terminal.out
    assert "cannot be in force: the image has no path 3" in terminal.out
    assert terminal.run("image delete rbd/image-00001 --keep") == 0
    assert adopted(terminal, text, "--json") == 0
    found = json.loads(terminal.out)
    assert found["state"] == "serving"
    assert [each["cannot_bind"] for each in found["reservations"]["found"]] == [
        "",
        "the image has no path 3",
        "it was made at another target, iqn.2016-05.com.petasan:00002",
    ]
    assert terminal.made.ceph.pr_info["idp"] == text


def test_an_adopted_image_with_a_damaged_record(terminal: Terminal) -> None:
    """It is adopted, which is said with the way out, and not waited for."""
    for agent in terminal.made.agents:
        agent.broken = "image rbd/image-00001 is not exported: pr_info is damaged"
    assert adopted(terminal, b"junk") == 0
    assert "reservations of before cannot be read, and it is not exported: pr_info is damaged" in terminal.out
    assert "`rbdgate reservation clear rbd/image-00001 --reason TEXT` empties the table" in terminal.out


def test_an_adopted_image_of_which_nothing_is_known(terminal: Terminal) -> None:
    """Whether it has reservations is not known when Ceph stops answering; it is adopted all the same."""
    terminal.made.ceph.fail["read_pr_info"] = StorageUnavailable("Ceph did not answer")
    assert adopted(terminal, b"junk") == 0
    assert "whether the image has reservations of before is not known: Ceph did not answer" in terminal.out
