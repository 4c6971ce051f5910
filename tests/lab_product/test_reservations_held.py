"""What cannot be recorded at once is held for a moment, or heard by nobody; many changes at once lose none."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.lab.machine import State
from tests.lab_product.conftest import recover
from tests.lab_product.reserving import (
    HOME,
    NODE,
    Line,
    Target,
    portals_of,
    second_initiator,
    second_name,
    served_image,
)
from tests.lab_product.scene import Scene, wwid_of
from tests.lab_product.waiting import for_seconds, until
from tests.spc4.model import (
    Access,
    Attention,
    Done,
    FullStatus,
    Nexus,
    Question,
    Refusal,
    Register,
    RegisterAndIgnore,
    Release,
    Reservation,
    Reserve,
    Row,
    Type,
)
from tests.spc4.sequences import Step
from tests.spc4.wire import Unanswered

NAMES = ("rbd/held", "rbd2/held")
"""One image in each pool, and so on each OSD."""
ALL_HOLD = (Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)
A, B = Nexus("a", 1), Nexus("b", 1)
GUARDS = "-m cgroup --path system.slice/rbdgate-guard.service"
RACING = 20.0  # seconds; a busy machine makes ten changes in one of them
MOMENT = 1.0  # seconds
SHORT, LONG = 2.0, 20.0
# Where a round trip takes milliseconds TCP sends again after 0.2, 0.6, 1.4 and 3.0 s, within what a change is held; in
# a node of the lab each may take a multiple. With this TCP waits as long each time as the first, at first.
EVEN_TCP = "sysctl -qw net.ipv4.tcp_thin_linear_timeouts={}"

RACER = """
import sys, time
from gateway.reservations.sg import ScsiDevice
from gateway.reservations.scsi import OutAction, reserve_out_cdb, reserve_out_parameters
device, first, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cdb = reserve_out_cdb(OutAction.REGISTER_AND_IGNORE_EXISTING_KEY, None, 24)
with ScsiDevice(device) as sg:
    for key in range(first, first + rounds):
        print("sent", key, flush=True)
        try:
            sg.command(cdb, data_out=reserve_out_parameters(key=0, new_key=key), timeout=30)
        except Exception as error:
            print("failed", type(error).__name__, flush=True)
            break
        print("good", key, flush=True)
"""

MANY, FIRST_ISID = 300, 0x1000
CROWD = """
import json, sys
from gateway.model import Iqn
from gateway.reservations.scsi import OutAction, reserve_out_cdb, reserve_out_parameters
from tests.spc4.session import Session
cdb = reserve_out_cdb(OutAction.REGISTER, None, 24)
for initiator, isid, key in json.load(sys.stdin):
    with Session((sys.argv[1], int(sys.argv[2])), Iqn(initiator), Iqn(sys.argv[3]), isid) as session:
        print(session.command(cdb, reserve_out_parameters(key=0, new_key=key)))
"""


@dataclass
class Stage:
    """Two served images with four nexuses each."""

    scene: Scene
    targets: dict[str, Target]

    @property
    def held(self) -> Target:
        """The first image's."""
        return self.targets[NAMES[0]]

    def answer(self, step: Step, name: str = NAMES[0]) -> object:
        """The answer to a command that changes nothing: a lost connection is no answer yet."""
        for _ in range(3):
            reply = self.targets[name].ask(step).reply
            if not isinstance(reply, Unanswered):
                break
        return reply

    def rows(self, name: str = NAMES[0]) -> dict[tuple[str, int], int]:
        """Who is registered with which key, by initiator and path."""
        return dict(self.registered(name))

    def registered(self, name: str = NAMES[0]) -> list[tuple[tuple[str, int], int]]:
        """Every registration as an initiator is told it: initiator, path and key."""
        return [((row.initiator, row.port), row.key) for row in self.status(name)]

    def status(self, name: str) -> tuple[Row, ...]:
        """READ FULL STATUS."""
        reply = self.answer(Step(A, Question.READ_FULL_STATUS), name)
        assert isinstance(reply, Done)
        assert isinstance(reply.data, FullStatus)
        return reply.data.rows

    def reservation(self, name: str) -> tuple[int, Type | None]:
        """READ RESERVATION: the holder's key and the type."""
        reply = self.answer(Step(A, Question.READ_RESERVATION), name)
        assert isinstance(reply, Done)
        assert isinstance(reply.data, Reservation)
        return reply.data.key, reply.data.type

    def register(self, nexus: Nexus, key: int, name: str = NAMES[0]) -> object:
        """REGISTER AND IGNORE EXISTING KEY; the answer."""
        return self.targets[name].ask(Step(nexus, RegisterAndIgnore(key))).reply

    def read(self, name: str) -> None:
        """Read some of an image, by the other initiator's session: it is answered at once."""
        device = self.targets[name].device(B)
        self.scene.run(NODE, "sg_dd", f"if={device}", "of=/dev/null", "bs=512", "count=16", "bpt=4", within=10)

    def read_all(self) -> None:
        """Read some of each image."""
        for name in NAMES:
            self.read(name)

    def silence_guard(self, holder: str, match: str = "", *, then: str = "true") -> None:
        """Let nothing of the guard's (that matches) get to Ceph; `then` goes on in the node by itself."""
        rule = f"iptables-legacy -I OUTPUT {GUARDS} {match} -j DROP"
        self.scene.shell(holder, f"modprobe -a xt_cgroup xt_string; {rule}; ({then}) >/dev/null 2>&1 </dev/null &")

    def hear_guard(self, holder: str) -> None:
        """Let it through again."""
        self.scene.shell(holder, "iptables-legacy -F OUTPUT")


@pytest.fixture(scope="module")
def logged_in(scene: Scene) -> Iterator[Stage]:
    """Both images, logged in under both names."""
    with ExitStack() as things:
        things.enter_context(second_initiator(scene))
        line = things.enter_context(closing(Line(scene)))
        images = {name: things.enter_context(served_image(scene, name)) for name in NAMES}
        yield Stage(
            scene,
            {
                name: things.enter_context(Target(scene, line, image["iqn"], portals_of(image)))
                for name, image in images.items()
            },
        )
        recover(scene)


@pytest.fixture
def stage(logged_in: Stage) -> Iterator[Stage]:
    """Both at the first gateway, with nothing registered; afterwards everything is whole again."""
    scene = logged_in.scene
    for name in NAMES:
        scene.move(name, scene.gateways[0])
        if logged_in.rows(name):
            scene.rbdgate("reservation", "clear", name, "--reason", "a test begins")
            scene.wait_serving(name)
        assert logged_in.rows(name) == {}
    yield logged_in
    for node in scene.gateways:
        if scene.lab.state(node) is State.RUNNING:
            scene.shell(node, "iptables-legacy -F OUTPUT; systemctl kill --signal=CONT rbdgate-guard", check=False)
    recover(scene)


@pytest.mark.full
def test_a_short_silence_of_the_guard_alone_only_delays(stage: Stage) -> None:
    """With the guard cut off from Ceph for 2 s a change is answered afterwards; reads of all images go on."""
    holder = stage.scene.holder(NAMES[0])
    stage.scene.shell(holder, EVEN_TCP.format(1))
    stage.silence_guard(holder, then=f"sleep {SHORT}; iptables-legacy -F OUTPUT; {EVEN_TCP.format(0)}")
    stage.held.send(Step(A, RegisterAndIgnore(0xA1)))
    stage.read_all()
    assert stage.held.heard(Step(A, RegisterAndIgnore(0xA1))).reply == Done()
    assert stage.rows() == {("a", 1): 0xA1}
    assert stage.scene.holder(NAMES[0]) == holder


@pytest.mark.full
def test_an_osd_that_stands_still_delays_its_own_images_only(stage: Stage) -> None:
    """A change waits for 2 s and is answered; the other pool's image is read and its changes are recorded meanwhile."""
    began = time.monotonic()
    stage.scene.ceph.osd(0).stop()
    try:
        stage.held.send(Step(A, RegisterAndIgnore(0xA1)))
        said, _ = race(stage, NAMES[1], B, 0xB1, 3).communicate(timeout=30)
        stage.read(NAMES[1])
        meanwhile = time.monotonic() - began
        for_seconds(max(0.0, SHORT - meanwhile))
    finally:
        stage.scene.ceph.osd(0).cont()
    assert said.count("good") == 3, said
    assert stage.held.heard(Step(A, RegisterAndIgnore(0xA1))).reply == Done(), f"the rest took {meanwhile:.1f} s"
    assert stage.rows() == {("a", 1): 0xA1}


@pytest.mark.full
def test_a_long_silence_is_heard_as_a_lost_connection(stage: Stage) -> None:
    """Cut off for 20 s, no initiator hears GOOD for what is not recorded; the image comes back by itself."""
    holder = stage.scene.holder(NAMES[0])
    assert stage.register(A, 0xA1) == Done()
    stage.silence_guard(holder)
    reply = stage.register(B, 0xB1)
    assert isinstance(reply, Unanswered), reply
    for_seconds(LONG - 5)
    stage.hear_guard(holder)
    stage.scene.wait_serving(NAMES[0])
    assert stage.rows() == {("a", 1): 0xA1}
    assert stage.register(B, 0xB2) == Done()
    assert stage.rows() == {("a", 1): 0xA1, ("b", 1): 0xB2}


@pytest.mark.full
def test_a_guard_that_dies_with_a_change_in_its_hand(stage: Stage) -> None:
    """The next guard never sees that request: it fails it behind the cut, and the first change after it is recorded."""
    scene, holder = stage.scene, stage.scene.holder(NAMES[0])
    assert stage.register(A, 0xA1) == Done()
    before = guard_pid(scene, holder)
    stage.silence_guard(holder)
    stage.held.send(Step(B, RegisterAndIgnore(0xB1)))
    for_seconds(MOMENT)
    scene.run(holder, "systemctl", "kill", "--signal=KILL", "--kill-who=main", "rbdgate-guard.service")
    stage.hear_guard(holder)
    heard = stage.held.heard(Step(B, RegisterAndIgnore(0xB1)))
    assert isinstance(heard.reply, Unanswered), heard
    until("a new guard", lambda: guard_pid(scene, holder) not in ("0", before), within=60)
    scene.wait_serving(NAMES[0])
    said = scene.run(holder, "journalctl", "-u", "rbdgate-guard", f"_PID={guard_pid(scene, holder)}")
    assert "its reservations are not the recorded ones: 0 registrations are missing and 1 are not recorded" in said
    assert stage.rows() == {("a", 1): 0xA1}
    assert stage.register(B, 0xB2) == Done()
    assert stage.rows() == {("a", 1): 0xA1, ("b", 1): 0xB2}
    shown = scene.rbdgate("reservation", "show", NAMES[0])["registrations"]
    assert {int(each["key"], 16) for each in shown} == {0xA1, 0xB2}


def test_a_guard_overtaken_between_reading_and_writing(stage: Stage) -> None:
    """Its write, on its way when another gateway took over, is refused, and the initiator never hears GOOD."""
    scene, holder = stage.scene, stage.scene.holder(NAMES[0])
    assert stage.register(A, 0xA1) == Done()
    scene.front = scene.others(holder)[0]
    stage.silence_guard(holder, "-m string --algo bm --string pr_info")
    stage.held.send(Step(B, RegisterAndIgnore(0xB1)))
    for_seconds(1.0)
    scene.shell(holder, "systemctl kill --signal=STOP --kill-who=main rbdgate-guard rbdgate-agent")
    until("another gateway holds it", lambda: scene.image(NAMES[0])["holder"] not in (None, holder), within=60)
    scene.wait_serving(NAMES[0])
    stage.hear_guard(holder)
    scene.shell(holder, "systemctl kill --signal=CONT --kill-who=main rbdgate-guard rbdgate-agent")
    heard = stage.held.heard(Step(B, RegisterAndIgnore(0xB1)))
    assert isinstance(heard.reply, Unanswered), heard
    assert stage.rows() == {("a", 1): 0xA1}


def guard_pid(scene: Scene, node: str) -> str:
    """The guard's pid on that node; "0" while there is none."""
    return scene.run(node, "systemctl", "show", "--property=MainPID", "--value", "rbdgate-guard.service").strip()


def race(stage: Stage, name: str, nexus: Nexus, first: int, rounds: int) -> subprocess.Popen[str]:
    """Have one nexus register with one key after the other, as fast as it is answered."""
    target = stage.targets[name]
    words = (
        "env",
        f"PYTHONPATH={HOME}",
        "/usr/bin/python3",
        "-c",
        RACER,
        target.device(nexus),
        str(first),
        str(rounds),
    )
    command = stage.scene.lab.exec_command(NODE, *words)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def test_a_race_loses_nobody_who_was_told(stage: Stage) -> None:
    """Two initiators, and one of them on two paths, register hundreds of times at once; then the power goes."""
    racers = {
        nexus: race(stage, NAMES[0], nexus, 1 + 100_000 * n, 2000) for n, nexus in enumerate((A, Nexus("a", 2), B))
    }
    for_seconds(RACING)
    holder = stage.scene.holder(NAMES[0])
    stage.scene.front = stage.scene.others(holder)[0]
    stage.scene.lab.crash(holder)
    stage.scene.wait_serving(NAMES[0])
    said = {nexus: racer.communicate(timeout=180)[0].split("\n") for nexus, racer in racers.items()}
    found = stage.rows()
    changes = 0
    for nexus, lines in said.items():
        good = [int(line.split()[1]) for line in lines if line.startswith("good")]
        sent = [int(line.split()[1]) for line in lines if line.startswith("sent")]
        changes += len(good)
        assert found[nexus.initiator, nexus.port] in (good[-1], sent[-1]), (nexus, good[-1], sent[-1], found)
    assert changes >= 200, f"only {changes} changes were made"


@pytest.mark.full
def test_three_hundred_registrations_outlive_a_takeover(stage: Stage) -> None:
    """Registered under two names with 150 sessions each, they are all there after a power cut, with their keys."""
    scene = stage.scene
    image = scene.image(NAMES[0])
    _, address = portals_of(image)[0]
    names = (scene.initiator_name(NODE), second_name(scene))
    made = {f"{names[n % 2]},i,0x00023d{n:06x}": n for n in range(FIRST_ISID, FIRST_ISID + MANY)}
    told = json.dumps([[*name.split(",i,0x"), key] for name, key in made.items()])
    host, _, port = address.rpartition(":")
    python = ("env", f"PYTHONPATH={HOME}", "/usr/bin/python3", "-c", CROWD, host, port, image["iqn"])
    done = scene.lab.exec(NODE, *python, input=told, timeout=180)
    assert done.stdout.split() == ["0"] * MANY
    told_to_initiators = {key: "ab"[names.index(name.split(",")[0])] for name, key in made.items()}
    for taken_over in (False, True):
        if taken_over:
            fail_over(stage)
        assert {key: initiator for (initiator, _), key in stage.registered()} == told_to_initiators
        shown = scene.rbdgate("reservation", "show", NAMES[0])["registrations"]
        assert {f"{each['initiator']},i,0x{each['isid']}": int(each["key"], 16) for each in shown} == made


@pytest.mark.full
def test_all_registrants_hold_alike_after_a_move(stage: Stage) -> None:
    """Whoever reserved may be gone: the gateway that takes over shows all registrants as holders, and any releases."""
    b2, kinds = Nexus("b", 2), dict(zip(NAMES, ALL_HOLD, strict=True))
    for name, kind in kinds.items():
        for nexus, key in ((A, 0xA1), (B, 0xB1), (b2, 0xB2)):
            assert stage.register(nexus, key, name) == Done()
        assert stage.answer(Step(A, Reserve(0xA1, kind)), name) == Done()
        assert stage.answer(Step(A, Register(0xA1, 0)), name) == Done()
        stage.scene.move(name, stage.scene.others(stage.scene.holder(name))[0])
        assert stage.reservation(name) == (0, kind)
        assert {(row.initiator, row.port, row.type) for row in stage.status(name)} == {("b", 1, kind), ("b", 2, kind)}
        assert stage.answer(Step(A, Access.WRITE), name) is Refusal.RESERVATION_CONFLICT
        for nexus in (B, b2):
            assert stage.answer(Step(nexus, Access.WRITE), name) == Done()
        assert stage.answer(Step(b2, Release(0xB2, kind)), name) == Done()
        told = stage.targets[name].ask(Step(B, Access.WRITE))
        assert (told.reply, told.attentions) == (Done(), (Attention.RESERVATIONS_RELEASED.value,))
        assert stage.reservation(name) == (0, None)
        assert stage.answer(Step(A, Access.WRITE), name) == Done()


@pytest.mark.full
def test_mpathpersist_across_a_failover(stage: Stage) -> None:
    """dm-multipath's own tool registers every path and reserves; after a power cut all of it stands."""
    scene = stage.scene
    mapped = multipath_of(stage)
    command = ("mpathpersist", "--out", "--param-rk=0x77", "--prout-type=5")
    scene.run(NODE, "mpathpersist", "--out", "--register", "--param-sark=0x77", mapped)
    scene.run(NODE, *command, "--reserve", mapped)
    before = stage.rows()
    assert before == dict.fromkeys((("a", 1), ("a", 2), ("b", 1), ("b", 2)), 0x77)
    fail_over(stage)
    until("every path is back", lambda: stage.rows() == before, within=60)
    assert "Key = 0x77" in scene.run(NODE, "mpathpersist", "--in", "--read-reservation", mapped)
    scene.run(NODE, *command, "--release", mapped)
    assert "NO reservation" in scene.run(NODE, "mpathpersist", "--in", "--read-reservation", mapped)


@pytest.mark.full
def test_fence_scsi_across_a_failover(stage: Stage) -> None:
    """Pacemaker's agent registers two hosts, and fences one after a power cut; after a move it is fenced still."""
    scene, fenced = stage.scene, Step(B, Access.WRITE)
    push_agent(scene)
    hosts = {nexus: block_device(stage, nexus) for nexus in (A, B)}
    fence(scene, "on", "b1", hosts[B])
    fence(scene, "on", "a1", hosts[A])  # the last: with its key it fences others
    both = {("a", 1): 0xA1, ("b", 1): 0xB1}
    assert stage.rows() == both
    fail_over(stage)
    assert stage.rows() == both
    assert stage.answer(fenced) == Done()
    fence(scene, "off", "b1", hosts[A])
    assert stage.answer(fenced) is Refusal.RESERVATION_CONFLICT
    scene.move(NAMES[0], scene.front if scene.front != scene.holder(NAMES[0]) else scene.gateways[-1])
    assert stage.rows() == {("a", 1): 0xA1}
    assert stage.answer(fenced) is Refusal.RESERVATION_CONFLICT
    assert stage.answer(Step(A, Access.WRITE)) == Done()


def fail_over(stage: Stage) -> None:
    """The holder's power is cut; another gateway serves, and the initiators' sessions are back (a lost one's disk is
    none)."""
    scene = stage.scene
    holder = scene.holder(NAMES[0])
    scene.front = scene.others(holder)[0]
    scene.lab.crash(holder)
    scene.wait_taken_over(NAMES[0], holder)
    for nexus in (A, B):
        question = Step(nexus, Question.READ_FULL_STATUS)
        until(f"{nexus} is answered", partial(lambda step: isinstance(stage.answer(step), Done), question), within=90)


def push_agent(scene: Scene) -> None:
    """Put this machine's fence_scsi on the initiator: Debian's package would bring half a cloud along."""
    files = ("usr/sbin/fence_scsi", *(str(p.relative_to("/")) for p in Path("/usr/share/fence").glob("*.py")))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in files:
            tar.add(f"/{name}", arcname=name)
    scene.put(NODE, "/var/tmp/fence.tar", archive.getvalue())
    scene.shell(NODE, "tar -x -C / -f /var/tmp/fence.tar && mkdir -p /var/run/cluster")


def fence(scene: Scene, action: str, key: str, device: str) -> None:
    """Run the agent."""
    scene.run(NODE, "fence_scsi", f"--action={action}", f"--key={key}", f"--devices={device}", within=60)


def block_device(stage: Stage, nexus: Nexus) -> str:
    """The nexus's /dev/sdX."""
    sg = stage.held.device(nexus).removeprefix("/dev/")
    return "/dev/" + stage.scene.shell(NODE, f"ls /sys/class/scsi_generic/{sg}/device/block").strip()


def multipath_of(stage: Stage) -> str:
    """The initiator's multipath device of the first image."""
    serial = stage.scene.image(NAMES[0])["serial"]
    listed = stage.scene.run(NODE, "multipathd", "show", "maps", "raw", "format", "%w %n")
    names = dict(line.split() for line in listed.splitlines() if len(line.split()) == 2)
    return f"/dev/mapper/{names[wwid_of(serial)]}"
