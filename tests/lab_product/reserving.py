"""Two initiators at a served image and at a plain LIO disk: reservation commands sent, answered, held to the model.

The two are one node: open-iscsi logs in under a second name through an interface of its own. The plain disk is a RAM
disk on one of the gateways, exported as LIO does it without rbdgate.
"""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import tarfile
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab_product.scene import SERVED_WITHIN, Refused, Scene
from tests.lab_product.waiting import until
from tests.spc4.judging import Heard
from tests.spc4.model import Nexus
from tests.spc4.sequences import Step
from tests.spc4.wire import reply_of, request_of

ROOT = Path(__file__).parents[2]
HOME = "/var/tmp/rbdgate-spc4"  # inside the initiator
NODE = "ini1"
SECOND = "second"  # open-iscsi's interface with the other name
TAGS = (1, 2)
NEXUSES = tuple(Nexus(initiator, tag) for initiator in "ab" for tag in TAGS)
ANSWERED_WITHIN = 150.0  # seconds: open-iscsi gives a lost session 120 s to come back
COMMAND_TIMEOUT = 60.0  # seconds the initiator's kernel gives one sending
PLAIN = "iqn.2003-01.org.linux-iscsi:plain"

_CORE = "/sys/kernel/config/target/core/iblock_90/plain"
_TARGET = f"/sys/kernel/config/target/iscsi/{PLAIN}"
EXPORT_PLAIN = f"""
set -e
modprobe brd rd_nr=1 rd_size=65536
mkdir -p {_CORE}
echo udev_path=/dev/ram0 > {_CORE}/control
echo 1 > {_CORE}/enable
echo 7b1f6a52-0000-4000-8000-000000000090 > {_CORE}/wwn/vpd_unit_serial
tag=0
for portal in $PORTALS; do
    tag=$((tag + 1)); tpg={_TARGET}/tpgt_$tag
    mkdir -p $tpg/lun/lun_0
    ln -s {_CORE} $tpg/lun/lun_0/device
    echo 0 > $tpg/attrib/authentication
    for initiator in $INITIATORS; do
        mkdir -p $tpg/acls/$initiator/lun_0
        ln -s $tpg/lun/lun_0 $tpg/acls/$initiator/lun_0/lun
    done
    mkdir $tpg/np/$portal:3260
    echo 1 > $tpg/enable
done
"""
WITHDRAW_PLAIN = f"""
for tpg in {_TARGET}/tpgt_*; do
    test -d $tpg || continue
    echo 0 > $tpg/enable
    rmdir $tpg/np/*
    rm $tpg/acls/*/lun_0/lun; rmdir $tpg/acls/*/lun_0 $tpg/acls/*
    rm $tpg/lun/lun_0/device; rmdir $tpg/lun/lun_0 $tpg
done
rmdir {_TARGET} {_CORE} $(dirname {_CORE}) 2>/dev/null
"""
FIND = (
    "for s in /sys/class/iscsi_session/session*; do"
    ' test "$(cat $s/targetname)" = "$0" || continue;'
    " sg=$(ls -d $s/device/target*/*:0/scsi_generic/sg* 2>/dev/null) || continue;"
    " echo $(cat $s/initiatorname) $(cat $s/tpgt) ${sg##*/}; done"
)

XATTR = """
import rados, sys
name, value = sys.argv[1], sys.stdin.buffer.read()
with rados.Rados(name="client.rbdgate", conffile="/etc/ceph/ceph.conf") as cluster, cluster.open_ioctx("rbd") as pool:
    header = "rbd_header." + pool.read("rbd_id." + name.split("/")[1])[4:].decode()
    if value:
        pool.set_xattr(header, "pr_info", value.replace(b"~", bytes(1)))
    sys.stdout.write(dict(pool.get_xattrs(header))["pr_info"].replace(bytes(1), b"~").decode("latin-1"))
"""


class Line:
    """The open line to the program in the initiator that sends commands (`tests/spc4/initiator.py`)."""

    def __init__(self, scene: Scene) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            ours = (ROOT / "tests/spc4" / name for name in ("initiator.py", "session.py"))
            for file in (*sorted((ROOT / "gateway").rglob("*.py")), *ours):
                tar.add(file, arcname=str(file.relative_to(ROOT)))
        script = f"mkdir -p {HOME} && base64 -d | tar -x -C {HOME}"
        scene.lab.exec(NODE, "sh", "-c", script, input=b64encode(archive.getvalue()).decode(), timeout=60)
        words = ("env", f"PYTHONPATH={HOME}", "/usr/bin/python3", f"{HOME}/tests/spc4/initiator.py")
        self._running = subprocess.Popen(
            scene.lab.exec_command(NODE, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def ask(self, **words: Any) -> None:
        """Have a command sent."""
        assert self._running.stdin is not None
        self._running.stdin.write(json.dumps(words).encode() + b"\n")

    def answer(self, within: float = ANSWERED_WITHIN) -> dict[str, Any]:
        """How it was answered; Refused if nothing is heard in time."""
        assert self._running.stdout is not None
        said, deadline = b"", time.monotonic() + within
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([self._running.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._running.stdout.fileno(), 1 << 20) if ready else b""
            if not piece:
                raise Refused(f"the initiator said nothing within {within:.0f} s")
            said += piece
        answer: dict[str, Any] = json.loads(said)
        return answer

    def close(self) -> None:
        """End the program."""
        self._running.kill()
        self._running.communicate()


class Target:
    """One target with its four nexuses, all of which are logged in while the `with` block lasts."""

    def __init__(self, scene: Scene, line: Line, iqn: str, portals: Iterable[tuple[int, str]]) -> None:
        self._scene, self._line, self.iqn, self._portals = scene, line, iqn, tuple(portals)
        self._names = {scene.initiator_name(NODE): "a", second_name(scene): "b"}
        self._devices: dict[Nexus, str] = {}

    def __enter__(self) -> Target:
        for tag, portal in self._portals:
            for interface in ("default", SECOND):
                record = ("iscsiadm", "-m", "node", "-T", self.iqn, "-p", f"{portal},{tag}", "-I", interface)
                self._scene.run(NODE, *record, "--op=new")
        self._scene.run(NODE, "iscsiadm", "-m", "node", "-T", self.iqn, "--login", within=120)
        self._devices = until("four nexuses", self._found, within=SERVED_WITHIN)
        return self

    def __exit__(self, *_: object) -> None:
        for last in ("--logout", "--op=delete"):
            self._scene.run(NODE, "iscsiadm", "-m", "node", "-T", self.iqn, last, check=False, within=120)

    def _found(self) -> dict[Nexus, str] | None:
        lines = self._scene.run(NODE, "sh", "-c", FIND, self.iqn).splitlines()
        found = {
            Nexus(self._names[name], int(tag)): f"/dev/{device}"
            for name, tag, device in (line.split() for line in lines)
        }
        return found if set(found) == set(NEXUSES) else None

    def log_in_anew(self, nexus: Nexus) -> None:
        """End the nexus's session, if it has one, and begin another, to which open-iscsi gives another ISID."""
        portal, interface = dict(self._portals)[nexus.port], "default" if nexus.initiator == "a" else SECOND
        record = ("iscsiadm", "-m", "node", "-T", self.iqn, "-p", portal, "-I", interface)
        self._scene.run(NODE, *record, "--logout", check=False)
        self._scene.run(NODE, *record, "--login", within=120)
        self._devices = until("four nexuses", self._found, within=SERVED_WITHIN)

    def device(self, nexus: Nexus) -> str:
        """The nexus's /dev/sgN in the initiator."""
        return self._devices[nexus]

    def send(self, step: Step) -> None:
        """Have one command sent; `heard` is its answer."""
        request = request_of(step.command)
        self.send_bytes(step.nexus, request.cdb, request.out, request.length_in)

    def send_bytes(self, nexus: Nexus, cdb: bytes, out: bytes = b"", length_in: int = 0) -> None:
        """Have a command sent that the model need not know."""
        self._line.ask(
            device=self._devices[nexus], cdb=cdb.hex(), out=out.hex(), timeout=COMMAND_TIMEOUT, **{"in": length_in}
        )

    def heard(self, step: Step) -> Heard:
        """The answer to the command that was sent last."""
        told = self._line.answer()
        attentions = tuple((asc, ascq) for asc, ascq in told.get("attentions", ()))
        return Heard(reply_of(step.command, told, self._names), attentions)

    def ask(self, step: Step) -> Heard:
        """Have one command sent and answered."""
        self.send(step)
        return self.heard(step)


def recorded_text(scene: Scene, name: str, value: str = "") -> str:
    """What is recorded in an image of the pool rbd, after that was written by somebody else, if anything; `~`: NUL."""
    words = ("/usr/bin/python3", "-c", XATTR, name)
    return str(scene.lab.exec(scene.front, *words, input=value, timeout=60).stdout)


def second_name(scene: Scene) -> str:
    """What the second initiator calls itself."""
    return f"{scene.initiator_name(NODE)}-{SECOND}"


@contextmanager
def second_initiator(scene: Scene) -> Iterator[None]:
    """Give the initiator node a second name while the context lasts."""
    iface = f"iscsiadm -m iface -I {SECOND}"
    scene.shell(
        NODE,
        f"{iface} >/dev/null 2>&1 || {iface} --op=new;"
        f" {iface} --op=update -n iface.initiatorname -v {second_name(scene)}",
    )
    try:
        yield
    finally:
        scene.shell(NODE, f"{iface} --op=delete", check=False)


@contextmanager
def plain_disk(scene: Scene, node: str) -> Iterator[tuple[tuple[int, str], ...]]:
    """The plain disk, exported at that gateway's own addresses while the context lasts; tag and portal of each."""
    number = int(node.removeprefix("gw"))
    portals = {tag: f"10.77.{tag}.{10 + number}" for tag in TAGS}
    initiators = f"{scene.initiator_name(NODE)} {second_name(scene)}"
    try:
        scene.shell(node, f"PORTALS='{' '.join(portals.values())}' INITIATORS='{initiators}'\n{EXPORT_PLAIN}")
        yield tuple((tag, f"{portal}:3260") for tag, portal in portals.items())
    finally:
        scene.shell(node, WITHDRAW_PLAIN, check=False)


@contextmanager
def served_image(scene: Scene, name: str) -> Iterator[dict[str, Any]]:
    """A small image with two paths that both initiators may use, as `image show` prints it; deleted afterwards."""
    scene.rbdgate("image", "create", name, "--size", "64M", "--paths", str(len(TAGS)))
    try:
        for initiator in (scene.initiator_name(NODE), second_name(scene)):
            scene.rbdgate("initiator", "allow", name, initiator)
        yield scene.wait_serving(name)
    finally:
        scene.rbdgate("image", "delete", name)


def portals_of(image: dict[str, Any]) -> tuple[tuple[int, str], ...]:
    """Tag and portal of each of the image's paths."""
    return tuple((path["tag"], f"{path['address']}:{path['port']}") for path in image["paths"])
