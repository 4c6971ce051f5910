"""What somebody else does to an image's reservations: a clear word, nothing served that is not recorded, a way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.lab.furnish import CEPH_USER
from tests.lab.making import MON_CAPS, OSD_CAPS
from tests.lab_product.conftest import recover
from tests.lab_product.reserving import Line, Target, portals_of, recorded_text, second_initiator, served_image
from tests.lab_product.scene import Scene
from tests.lab_product.waiting import until
from tests.spc4.model import Done, FullStatus, Nexus, Question, RegisterAndIgnore
from tests.spc4.sequences import Step
from tests.spc4.wire import Unanswered

NAME = "rbd/handled"
A, B = Nexus("a", 1), Nexus("b", 1)
TRAP = "/etc/target/pr"
DETACH = f"python3 -c 'import ctypes; ctypes.CDLL(None).umount2(b\"{TRAP}\", 2)'"  # umount(8) asks the guard
DATA_ONLY = "allow rwx pool=rbd2 object_prefix rbd_data"
ELSEWHERE = "lio-elsewhere"
ELSEWHERE_UNIT = """
[Unit]
Description=LIO's files in another directory, for a test
DefaultDependencies=no
Before=systemd-modules-load.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /srv/lio/pr; modprobe target_core_mod; \
    mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config; \
    echo /srv/lio > /sys/kernel/config/target/dbroot'
[Install]
WantedBy=sysinit.target
"""
FAULTS = "/run/rbdgate-fault"
FAULT = """
import errno, os
real = os.open
def open(path, flags, *rest, **named):
    if str(path).endswith({ending!r}) and (flags & os.O_ACCMODE or {number} == errno.ENOENT):
        raise OSError({number}, os.strerror({number}))
    return real(path, flags, *rest, **named)
os.open = open
"""
BACK_WITHIN = 90.0  # seconds until open-iscsi has a lost session again


@dataclass
class Stage:
    """A served image with four nexuses, of which one is registered."""

    scene: Scene
    target: Target
    line: Line

    def rows(self) -> dict[tuple[str, int], int]:
        """Who is registered with which key, once the initiator is back (a lost session's disk answers nothing)."""

        def answered() -> FullStatus | None:
            reply = self.target.ask(Step(A, Question.READ_FULL_STATUS)).reply
            return reply.data if isinstance(reply, Done) and isinstance(reply.data, FullStatus) else None

        status = until("the initiator is answered", answered, within=BACK_WITHIN)
        return {(row.initiator, row.port): row.key for row in status.rows}


@pytest.fixture(scope="module")
def logged_in(scene: Scene) -> Iterator[Stage]:
    """The image, logged in under both names."""
    with (
        second_initiator(scene),
        closing(Line(scene)) as line,
        served_image(scene, NAME) as image,
        Target(scene, line, image["iqn"], portals_of(image)) as target,
    ):
        yield Stage(scene, target, line)
        recover(scene)


@pytest.fixture
def stage(logged_in: Stage) -> Iterator[Stage]:
    """With one registration; whole again afterwards."""
    for step in (Step(A, RegisterAndIgnore(0xA1)), Step(B, RegisterAndIgnore(0))):
        answered = partial(lambda step: logged_in.target.ask(step).reply == Done(), step)
        until("the initiator is answered", answered, within=BACK_WITHIN)
    yield logged_in
    recover(logged_in.scene)


def test_a_trap_that_is_unmounted_is_mounted_anew(stage: Stage) -> None:
    """The image goes off the air with it, and comes back with what was acknowledged meanwhile, and not with the file
    that was left there."""
    holder = stage.scene.holder(NAME)
    left = f"aptpl_{stage.scene.image(NAME)['serial']}"
    stage.scene.shell(holder, f"systemctl kill --signal=STOP --kill-who=main rbdgate-guard; {DETACH}")
    assert stage.target.ask(Step(B, RegisterAndIgnore(0xB1))).reply == Done()  # nobody catches it
    stage.scene.shell(
        holder, f"echo nonsense > {TRAP}/{left}; systemctl kill --signal=CONT --kill-who=main rbdgate-guard"
    )
    until(
        "the trap is mounted again",
        lambda: "fuse.rbdgate" in stage.scene.shell(holder, f"findmnt -n -o FSTYPE {TRAP}; true"),
        within=30,
    )
    stage.scene.wait_serving(NAME)
    assert stage.rows() == {("a", 1): 0xA1, ("b", 1): 0xB1}
    below = "mount --bind /etc/target /mnt; ls /mnt/pr; umount /mnt"
    assert left not in stage.scene.shell(holder, below)
    assert "condemned" in stage.scene.run(holder, "journalctl", "-u", "rbdgate-guard", "-n", "30")
    assert stage.target.ask(Step(A, RegisterAndIgnore(0xA2))).reply == Done()
    assert "0x00000000000000a2" in recorded_text(stage.scene, NAME)


@pytest.mark.full
def test_a_text_that_somebody_else_changed_is_not_written_over(stage: Stage) -> None:
    """The next change is heard as a lost connection, and what the other one wrote is what counts then."""
    other = recorded_text(stage.scene, NAME).replace("0x00000000000000a1", "0x00000000000000ee")
    assert recorded_text(stage.scene, NAME, other) == other
    reply = stage.target.ask(Step(B, RegisterAndIgnore(0xB1))).reply
    assert isinstance(reply, Unanswered), reply
    stage.scene.wait_serving(NAME)
    assert stage.rows() == {("a", 1): 0xEE}
    holder = stage.scene.holder(NAME)
    assert "somebody else changed pr_info" in stage.scene.run(holder, "journalctl", "-u", "rbdgate-guard", "-n", "30")


@pytest.mark.full
def test_a_damaged_text_stops_the_export_and_says_the_way_out(stage: Stage) -> None:
    """After a move nothing is exported; the status names the line and the command, and the command helps."""
    scene = stage.scene
    recorded_text(scene, NAME, "0x00000001\n0x00000005\nnonsense~")
    scene.try_rbdgate("image", "move", NAME, "--to", scene.others(scene.holder(NAME))[0], "--timeout", "5")
    image = until("it has failed", lambda: _failed(scene), within=60)
    assert "pr_info" in image["reason"]
    assert f"rbdgate reservation clear {NAME}" in image["reason"]
    assert all(path["state"] == "down" for path in image["paths"])
    scene.rbdgate("reservation", "clear", NAME, "--reason", "somebody wrote nonsense")
    scene.wait_serving(NAME)
    assert stage.rows() == {}


def test_a_text_that_somebody_else_changed_before_the_first_change(stage: Stage) -> None:
    """After a takeover, too, the first change is held against what was restored, and nothing is written over."""
    scene = stage.scene
    scene.move(NAME, scene.others(scene.holder(NAME))[0])
    assert stage.rows() == {("a", 1): 0xA1}
    recorded_text(scene, NAME, recorded_text(scene, NAME).replace("0x00000000000000a1", "0x00000000000000ee"))
    reply = stage.target.ask(Step(B, RegisterAndIgnore(0xB1))).reply
    assert isinstance(reply, Unanswered), reply
    scene.wait_serving(NAME)
    assert stage.rows() == {("a", 1): 0xEE}


@pytest.mark.full
def test_something_else_mounted_there_while_it_is_served(stage: Stage) -> None:
    """A guard that starts and cannot catch changes takes what is exported off the air instead of letting them go by."""
    scene = stage.scene
    holder = scene.holder(NAME)
    scene.shell(holder, f"systemctl stop rbdgate-guard; umount {TRAP}; mount -t tmpfs none {TRAP}")
    try:
        scene.run(holder, "systemctl", "start", "rbdgate-guard")
        image = until("it has failed", lambda: _failed(scene), within=60)
        assert f"a file system of type tmpfs is mounted on {TRAP}" in image["reason"], image["reason"]
        assert all(path["state"] == "down" for path in image["paths"])
    finally:
        scene.run(holder, "umount", TRAP)
    scene.wait_serving(NAME)
    assert stage.rows() == {("a", 1): 0xA1}


@pytest.mark.full
def test_something_else_mounted_on_the_traps_place(stage: Stage) -> None:
    """A gateway on which changes could not be caught exports no image that keeps reservations, and says why."""
    scene = stage.scene
    other = scene.others(scene.holder(NAME))[0]
    scene.shell(other, f"systemctl stop rbdgate-guard; umount {TRAP}; mount -t tmpfs none {TRAP}")
    try:
        scene.run(other, "systemctl", "start", "rbdgate-guard")
        until("it takes images", lambda: not scene.rbdgate("node", "show", other)["obstacle"], within=60)
        scene.try_rbdgate("image", "move", NAME, "--to", other, "--timeout", "5")
        image = until("it has failed", lambda: _failed(scene), within=60)
        assert f"a file system of type tmpfs is mounted on {TRAP}" in image["reason"], image["reason"]
    finally:
        scene.run(other, "umount", TRAP)
    scene.wait_serving(NAME)
    assert stage.rows() == {("a", 1): 0xA1}


FORCED = "/attrib/force_pr_aptpl"


@pytest.mark.full
@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EINVAL, "Invalid argument"), (errno.ENOENT, "No such file")],
    ids=["cannot be set", "is not there"],
)
def test_a_kernel_that_would_not_tell_of_changes(stage: Stage, number: int, reason: str) -> None:
    """A gateway whose backstores do not take `force_pr_aptpl`, or have none, exports nothing and says which file."""
    scene = stage.scene
    other = scene.others(scene.holder(NAME))[0]
    with faulty_file(scene, other, FORCED, number):
        refused = refused_at(scene, other)
        assert f"{FORCED}: {reason}" in refused["reason"], refused["reason"]
    scene.wait_serving(NAME)
    assert stage.rows() == {("a", 1): 0xA1}


@pytest.mark.full
def test_headers_that_the_cephx_user_may_not_write(stage: Stage) -> None:
    """A gateway that could not record a change exports nothing and names the caps; what is registered stays."""
    scene, name = stage.scene, "rbd2/unwritable"
    with (
        served_image(scene, name) as image,
        Target(scene, stage.line, image["iqn"], portals_of(image)) as target,
    ):
        apart = Stage(scene, target, stage.line)
        assert target.ask(Step(A, RegisterAndIgnore(0xA1))).reply == Done()
        other = scene.others(scene.holder(name))[0]
        with osd_caps(scene, other, "profile rbd pool=rbd, allow rx pool=rbd2, " + DATA_ONLY):
            refused = refused_at(scene, other, name)
            assert "not permitted: check the caps of this cephx user" in refused["reason"], refused["reason"]
        scene.wait_serving(name)
        assert apart.rows() == {("a", 1): 0xA1}
        assert target.ask(Step(A, RegisterAndIgnore(0xA2))).reply == Done()


@pytest.mark.full
def test_a_dbroot_elsewhere_is_where_the_trap_is(stage: Stage) -> None:
    """On a gateway whose LIO keeps its files in another directory changes are recorded as everywhere."""
    scene = stage.scene
    other = scene.others(scene.holder(NAME))[0]
    scene.put(other, f"/etc/systemd/system/{ELSEWHERE}.service", ELSEWHERE_UNIT.encode())
    scene.run(other, "systemctl", "enable", "--quiet", ELSEWHERE)
    try:
        reboot(scene, other)
        assert scene.run(other, "cat", "/sys/kernel/config/target/dbroot").strip() == "/srv/lio"
        scene.move(NAME, other)
        assert stage.rows() == {("a", 1): 0xA1}
        assert stage.target.ask(Step(A, RegisterAndIgnore(0xA2))).reply == Done()
        assert "0x00000000000000a2" in recorded_text(scene, NAME)
        assert scene.run(other, "findmnt", "-n", "-o", "FSTYPE", "/srv/lio/pr").strip() == "fuse.rbdgate"
    finally:
        scene.run(other, "systemctl", "disable", "--quiet", ELSEWHERE)
        reboot(scene, other)
    scene.wait_serving(NAME)
    assert stage.rows() == {("a", 1): 0xA2}


def refused_at(scene: Scene, node: str, name: str = NAME) -> dict[str, Any]:
    """The image after it was to move to a gateway that cannot export it, as `image show` has it."""
    scene.try_rbdgate("image", "move", name, "--to", node, "--timeout", "5")
    image = until("it has failed", lambda: _failed(scene, name), within=60)
    assert all(path["state"] == "down" for path in image["paths"])
    return image


@contextmanager
def faulty_file(scene: Scene, node: str, ending: str, number: int) -> Iterator[None]:
    """Have the agent meet that error at files so named, as on a kernel that there is none of: ENOENT always, else at
    writing."""
    drop_in = "/run/systemd/system/rbdgate-agent.service.d"
    scene.shell(node, f"mkdir -p {FAULTS} {drop_in}")
    scene.put(node, f"{FAULTS}/sitecustomize.py", FAULT.format(ending=ending, number=number).encode())
    scene.put(node, f"{drop_in}/fault.conf", f"[Service]\nEnvironment=PYTHONPATH={FAULTS}\n".encode())
    restart = "systemctl daemon-reload; systemctl restart rbdgate-agent"
    try:
        scene.shell(node, restart, within=120)
        until("it takes images", lambda: not scene.rbdgate("node", "show", node)["obstacle"], within=60)
        yield
    finally:
        scene.shell(node, f"rm -r {drop_in} {FAULTS}; {restart}", within=120)


@contextmanager
def osd_caps(scene: Scene, node: str, caps: str) -> Iterator[None]:
    """Let the gateways' user do no more than that with the OSDs while the context lasts; that node's clients know."""

    def give(osd: str) -> None:
        words = ["mon", MON_CAPS, "osd", osd]
        scene.ceph.commands({"prefix": "auth caps", "entity": f"client.{CEPH_USER}", "caps": words})
        scene.run(node, "systemctl", "restart", "rbdgate-guard", "rbdgate-agent", within=120)
        until("it takes images", lambda: not scene.rbdgate("node", "show", node)["obstacle"], within=60)

    try:
        give(caps)
        yield
    finally:
        give(OSD_CAPS)


def reboot(scene: Scene, node: str) -> None:
    """Cut a node's power and have it back."""
    scene.lab.crash(node)
    scene.lab.boot(node)
    scene.wait_live(node)
    until("it takes images", lambda: not scene.rbdgate("node", "show", node)["obstacle"], within=60)


def _failed(scene: Scene, name: str = NAME) -> dict[str, Any] | None:
    image = scene.image(name)
    return image if image["state"] == "failed" else None
