"""What an operator sees and does of an image's reservations, as real initiators are told of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab_product.conftest import recover
from tests.lab_product.reserving import (
    NODE,
    Line,
    Target,
    portals_of,
    recorded_text,
    second_initiator,
    second_name,
    served_image,
)
from tests.lab_product.scene import Scene
from tests.lab_product.waiting import until
from tests.spc4.model import (
    Access,
    Clear,
    Done,
    FullStatus,
    Nexus,
    Question,
    Refusal,
    Register,
    RegisterAndIgnore,
    Release,
    Reserve,
    Row,
    Type,
)
from tests.spc4.model import Command as Spc4Command
from tests.spc4.sequences import Step
from tests.spc4.wire import Unanswered, Unexpected

NAME = "rbd/operated"
A, B = Nexus("a", 1), Nexus("b", 1)
KIND = Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
BACK_WITHIN = 90.0  # seconds until open-iscsi has a lost session again
TOLD_WITHIN = 20.0  # seconds from a change to its event

PETASAN, VETERAN = "rbd/petasan", "iqn.2016-05.com.petasan:00001"
PORTALS = {1: "10.77.1.160", 2: "10.77.2.160"}
HALF = "0x3030303233643030"  # what PetaSAN's kernel keeps of every ISID that open-iscsi gives: 00023d00


@dataclass
class Stage:
    """An image that two initiators are logged in to on two paths each."""

    scene: Scene
    target: Target
    name: str = NAME

    def answer(self, nexus: Nexus, command: Spc4Command) -> object:
        """The answer, once there is one: a session that was lost answers nothing until it is back."""

        def answered() -> object | None:
            reply = self.target.ask(Step(nexus, command)).reply
            return None if isinstance(reply, Unanswered) else reply

        return until(f"{nexus} is answered", answered, within=BACK_WITHIN)

    def rows(self, asker: Nexus) -> tuple[Row, ...]:
        """READ FULL STATUS as that initiator is told it."""
        reply = self.answer(asker, Question.READ_FULL_STATUS)
        assert isinstance(reply, Done), reply
        assert isinstance(reply.data, FullStatus), reply
        return reply.data.rows

    def shown(self) -> dict[str, Any]:
        """`reservation show` at the holder, which knows who is logged in; each registration by its key."""
        self.scene.front = self.scene.holder(self.name)
        shown: dict[str, Any] = self.scene.rbdgate("reservation", "show", self.name)
        return shown | {"registrations": {int(each["key"], 16): each for each in shown["registrations"]}}

    def set_up(self) -> None:
        """Both register the first path, and `a` reserves."""
        for nexus, command in ((A, RegisterAndIgnore(0xA1)), (B, RegisterAndIgnore(0xB1)), (A, Reserve(0xA1, KIND))):
            assert self.answer(nexus, command) == Done(), (nexus, command)


@pytest.fixture(scope="module")
def initiators(scene: Scene) -> Iterator[Line]:
    """The initiator node with its two names."""
    with second_initiator(scene), closing(Line(scene)) as line:
        yield line


@pytest.fixture(scope="module")
def logged_in(scene: Scene, initiators: Line) -> Iterator[Stage]:
    """The image, logged in under both names."""
    with (
        served_image(scene, NAME) as image,
        Target(scene, initiators, image["iqn"], portals_of(image)) as target,
    ):
        yield Stage(scene, target)
        recover(scene)


@pytest.fixture
def stage(logged_in: Stage) -> Stage:
    """With nobody registered."""
    for command in (RegisterAndIgnore(0xC1), Clear(0xC1)):
        assert logged_in.answer(A, command) == Done()
    assert logged_in.rows(A) == ()
    return logged_in


def test_show_tells_who_is_registered_from_where_and_who_holds(stage: Stage) -> None:
    """Initiator, path, key and since when of each, the type and the holder; and a session that came back anew."""
    stage.set_up()
    scene, image, shown = stage.scene, stage.scene.image(NAME), stage.shown()
    portal = f"{image['paths'][0]['address']}:{image['paths'][0]['port']}"
    assert (shown["type"], shown["held_by"]) == (KIND.name.lower().replace("_", " "), scene.initiator_name(NODE))
    assert shown["held_since"]
    told = {
        key: (each["initiator"], each["tag"], each["portal"], each["holds"], each["stale"], each["other_sessions"])
        for key, each in shown["registrations"].items()
    }
    assert told == {
        0xA1: (scene.initiator_name(NODE), 1, portal, True, "", []),
        0xB1: (second_name(scene), 1, portal, False, "", []),
    }
    old = shown["registrations"][0xA1]["isid"]
    stage.target.log_in_anew(A)
    again = stage.shown()["registrations"][0xA1]
    (new,) = again["other_sessions"]
    assert (again["isid"], again["holds"], again["stale"]) == (old, True, "")
    assert new != old
    # LIO compares the first half of the ISID, which open-iscsi keeps, for reads and writes; commands of reservations
    # are a stranger's.
    assert stage.answer(A, Access.WRITE) == Done()
    assert stage.answer(A, Release(0xA1, KIND)) is Refusal.NOT_READY
    text = scene.run(scene.front, "rbdgate", "reservation", "show", NAME)
    assert f"logged in there with ISID {new}, which is not registered" in text


def test_forget_removes_one_registration_and_says_why(stage: Stage) -> None:
    """The other initiator sees exactly that one gone and the reservation as it was; the events have the reason."""
    stage.set_up()
    assert stage.answer(Nexus("b", 2), RegisterAndIgnore(0xB2)) == Done()
    gone = stage.shown()["registrations"][0xB1]["nexus"]
    left = tuple(row for row in stage.rows(A) if row.key != 0xB1)
    stage.scene.rbdgate("reservation", "forget", NAME, gone, "--reason", "its host was scrapped")
    assert stage.rows(A) == left
    assert {row.key for row in left} == {0xA1, 0xB2}
    assert stage.answer(B, Access.WRITE) is Refusal.RESERVATION_CONFLICT
    refused = stage.scene.try_rbdgate("reservation", "forget", NAME, gone, "--reason", "again")
    assert refused.returncode != 0
    assert "is not registered at image" in refused.stderr
    until("the reason is told", lambda: _told(stage.scene, "its host was scrapped"), within=TOLD_WITHIN)


@pytest.mark.full
def test_who_is_registered_is_denied_only_with_its_registration(stage: Stage) -> None:
    """Refused with the key and the way; done with `--clear-registration`, and the other initiator sees it gone."""
    stage.set_up()
    scene, before = stage.scene, stage.rows(A)
    deny = ("initiator", "deny", NAME, second_name(scene))
    refused = scene.try_rbdgate(*deny)
    assert refused.returncode != 0
    assert f"{second_name(scene)} with key 0xb1" in refused.stderr
    assert "--clear-registration" in refused.stderr
    assert stage.rows(A) == before
    assert stage.answer(B, Access.WRITE) == Done()
    try:
        scene.rbdgate(*deny, "--clear-registration", "--reason", "it left the cluster")
        assert stage.rows(A) == tuple(row for row in before if row.initiator == "a")
        assert set(stage.shown()["registrations"]) == {0xA1}
        until("the reason is told", lambda: _told(scene, "it left the cluster"), within=TOLD_WITHIN)
    finally:
        scene.rbdgate("initiator", "allow", NAME, second_name(scene))
        for tag in (1, 2):
            stage.target.log_in_anew(Nexus("b", tag))
    assert {row.key for row in stage.rows(B)} == {0xA1}


@pytest.mark.full
def test_without_enforced_isids_a_registrant_comes_back_in_another_session(stage: Stage) -> None:
    """What was registered before is its initiator's in any session, which can change and release it."""
    for command in (RegisterAndIgnore(0xA1), Reserve(0xA1, Type.WRITE_EXCLUSIVE)):
        assert stage.answer(A, command) == Done()
    stage.scene.rbdgate("image", "set", NAME, "--enforce-isids", "off")
    try:
        before = stage.rows(B)
        assert before == (Row("a", 1, 0xA1, False, Type.WRITE_EXCLUSIVE.value),)
        stage.target.log_in_anew(A)
        assert stage.rows(B) == before
        assert stage.shown()["registrations"][0xA1]["isid"] is None
        assert stage.answer(A, Register(0xA1, 0xA2)) == Done()
        assert stage.answer(B, Access.WRITE) is Refusal.RESERVATION_CONFLICT
        assert stage.answer(A, Release(0xA2, Type.WRITE_EXCLUSIVE)) == Done()
        assert stage.answer(B, Access.WRITE) == Done()
        assert stage.rows(B) == (Row("a", 1, 0xA2, False, 0),)
    finally:
        stage.scene.rbdgate("image", "set", NAME, "--enforce-isids", "on")


@pytest.mark.full
def test_reservations_are_turned_off_only_while_nobody_is_registered(stage: Stage) -> None:
    """Off, every PERSISTENT RESERVE is refused and data goes on; on again, they are kept as before."""
    scene = stage.scene
    stage.set_up()
    off = ("image", "set", NAME, "--reservations", "off")
    refused = scene.try_rbdgate(*off)
    assert refused.returncode != 0
    assert "registered at image" in refused.stderr
    assert len(stage.rows(B)) == 2
    assert stage.answer(A, Clear(0xA1)) == Done()
    scene.rbdgate(*off)
    try:
        assert stage.answer(A, RegisterAndIgnore(0xA1)) == Unexpected("CHECK CONDITION (5, 32, 0)")
        assert stage.answer(A, Access.WRITE) == Done()
    finally:
        scene.rbdgate("image", "set", NAME, "--reservations", "on")
    stage.set_up()
    assert {row.key for row in stage.rows(B)} == {0xA1, 0xB1}


@pytest.mark.full
def test_a_petasan_image_brings_its_registrations_along(scene: Scene, initiators: Line) -> None:
    """What was made at the kept name and tags is in force for the initiators that are allowed; the rest is listed."""
    a, b = scene.initiator_name(NODE), second_name(scene)
    rows = {
        0xA1: f"{a},i,{HALF},{VETERAN},t,0x1",
        0xB2: f"{b},i,{HALF},{VETERAN},t,0x2",
        0xD1: f"iqn.2026-11.io.rbdgate:gone,i,{HALF},{VETERAN},t,0x1",
        0xE1: f"{a},i,{HALF},iqn.2016-05.com.petasan:00002,t,0x1",
        0xE2: f"{a},i,{HALF},{VETERAN},t,0x9",
    }
    scene.rbd("create", PETASAN, "--size", "64M", "--image-feature", "layering,exclusive-lock")
    with ExitStack() as undo:
        undo.callback(scene.rbd, "rm", "--no-progress", PETASAN)
        recorded_text(scene, PETASAN, _petasan_text(rows, holder=0xA1))
        paths = [word for tag, address in PORTALS.items() for word in ("--path", f"{tag}={address}")]
        adopted = scene.rbdgate("image", "adopt", PETASAN, "--iqn", VETERAN, *paths)["reservations"]
        undo.callback(scene.rbdgate, "image", "delete", PETASAN, "--keep")
        bound = {int(each["key"], 16): each["cannot_bind"] for each in adopted["found"]}
        assert (bound[0xA1], bound[0xB2], bound[0xD1]) == ("", "", "")
        assert "another target" in bound[0xE1]
        assert bound[0xE2] == "the image has no path 9"
        for initiator in (a, b):
            scene.rbdgate("initiator", "allow", PETASAN, initiator)
        image = scene.wait_serving(PETASAN)
        stage = Stage(scene, undo.enter_context(Target(scene, initiators, VETERAN, portals_of(image))), PETASAN)
        assert stage.rows(B) == (Row("a", 1, 0xA1, False, KIND.value), Row("b", 2, 0xB2, False, 0))
        assert stage.answer(A, Access.WRITE) == stage.answer(Nexus("b", 2), Access.WRITE) == Done()
        assert stage.answer(B, Access.WRITE) is Refusal.RESERVATION_CONFLICT
        assert {key for key, each in stage.shown()["registrations"].items() if each["stale"]} == {0xD1, 0xE1, 0xE2}
        assert stage.answer(B, RegisterAndIgnore(0xB1)) == Done()
        assert set(stage.shown()["registrations"]) == {*rows, 0xB1}
        assert stage.answer(A, Release(0xA1, KIND)) == Done()


@pytest.mark.full
def test_all_registrants_hold_what_a_scrapped_one_of_them_made(scene: Scene, initiators: Line) -> None:
    """Adopted with nobody allowed, the image is exported; the first of them that is allowed has it in force for all.
    What is forgotten of the scrapped one does not come back when somebody gets its name."""
    kind, a, gone = Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, scene.initiator_name(NODE), "iqn.2026-11.io.rbdgate:gone"
    rows = {0xD1: f"{gone},i,{HALF},{VETERAN},t,0x1", 0xA1: f"{a},i,{HALF},{VETERAN},t,0x1"}
    scene.rbd("create", PETASAN, "--size", "64M", "--image-feature", "layering,exclusive-lock")
    with ExitStack() as undo:
        undo.callback(scene.rbd, "rm", "--no-progress", PETASAN)
        recorded_text(scene, PETASAN, _petasan_text(rows, holder=0xD1, kind=kind))
        paths = [word for tag, address in PORTALS.items() for word in ("--path", f"{tag}={address}")]
        scene.rbdgate("image", "adopt", PETASAN, "--iqn", VETERAN, *paths)
        undo.callback(scene.rbdgate, "image", "delete", PETASAN, "--keep")
        scene.wait_serving(PETASAN)
        for initiator in (a, second_name(scene)):
            scene.rbdgate("initiator", "allow", PETASAN, initiator)
        image = scene.wait_serving(PETASAN)
        stage = Stage(scene, undo.enter_context(Target(scene, initiators, VETERAN, portals_of(image))), PETASAN)
        assert stage.rows(B) == (Row("a", 1, 0xA1, False, kind.value),)
        assert stage.answer(A, Access.WRITE) == Done()
        assert stage.answer(B, Access.WRITE) is Refusal.RESERVATION_CONFLICT
        assert {key for key, each in stage.shown()["registrations"].items() if each["stale"]} == {0xD1}
        assert stage.answer(A, Release(0xA1, kind)) == Done()
        assert stage.answer(B, Access.WRITE) == Done()
        scrapped = stage.shown()["registrations"][0xD1]["nexus"]
        scene.rbdgate("reservation", "forget", PETASAN, scrapped, "--reason", "it was scrapped")
        scene.rbdgate("initiator", "allow", PETASAN, gone)
        assert {row.key for row in stage.rows(B)} == {0xA1}
        assert set(stage.shown()["registrations"]) == {0xA1}


def _petasan_text(rows: dict[int, str], holder: int, kind: Type = KIND) -> str:
    """The table as PetaSAN's kernel writes it; `~` for the NUL."""
    held = f"0x{holder:016x} {rows[holder]} 0x{kind.value:08x}"
    head = ("0x00000001", "0x00000007", "No SPC-2 Reservation holder", "0x00000003", held, f"0x{len(rows):08x}")
    return "".join(f"{line}\n" for line in (*head, *(f"0x{key:016x} {nexus}" for key, nexus in rows.items()))) + "~"


def _told(scene: Scene, why: str) -> list[dict[str, Any]]:
    return [event for event in scene.rbdgate("events", NAME) if why in f"{event['text']} {event['why']}"]
