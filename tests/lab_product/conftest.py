"""One lab for all tests here, one disk on it, and health again after every test."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.checker.journal import longest_stall
from tests.lab.cluster import Lab
from tests.lab.layout import RUNS
from tests.lab.machine import State
from tests.lab_product.scene import Disk, Scene, keep_logs
from tests.lab_product.waiting import NotInTime, until
from tests.lab_product.writing import Writing

NAME = "product"
IMAGE = "rbd/product"
SAMPLES = "/var/tmp/rbdgate-samples"  # inside a gateway, where root is alone
SAMPLER = Path(__file__).with_name("sampler.py")
_remarks: list[str] = []  # told when all tests are done
# A reload costs seconds in a node, and only what took a unit's restart away needs one.
SET_GOING = (
    "for d in /run/systemd/system/rbdgate-*.service.d; do [ ! -e $d ] || { rm -r $d; reload=1; }; done;"
    ' [ -z "$reload" ] || systemctl daemon-reload; systemctl kill --signal=CONT rbdgate-agent 2>/dev/null;'
    " systemctl reset-failed; systemctl start rbdgate-guard rbdgate-agent"
)
HEALTHY_WITHIN = 120.0  # seconds a cluster gets to be whole again after a test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what looks back on everything else (`test_throughout.py`) last."""
    items.sort(key=lambda item: item.path.name == "test_throughout.py")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that gives the writer its options."""
    config.addinivalue_line(
        "markers", "writer(lanes, blocks, rate, read_every): how the checking writer of a test writes"
    )


@pytest.fixture(scope="session")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A lab with three gateways and an initiator; RBDGATE_LAB names one that is up already and is left up."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    given = os.environ.get("RBDGATE_LAB")
    lab = Lab(given or f"{NAME}-{os.getpid()}")  # two runs at once must not take each other's lab down
    if not given:
        remove_orphans()
        lab.up(gateways=3, initiators=1)
    scene = Scene(lab)
    for node in scene.gateways:
        install_sampler(scene, node)
        keep_images_in_place(scene, node)
    yield scene
    if request.session.testsfailed:
        _remarks.append(f"what the nodes said is kept in {keep_logs(lab)}")
    if not given:
        lab.down()


def remove_orphans() -> None:
    """Take down the labs of runs that were killed."""
    for run in RUNS.glob(f"{NAME}-*"):
        if not Path("/proc", run.name.removeprefix(f"{NAME}-")).exists():
            Lab(run.name).down()


def keep_images_in_place(scene: Scene, node: str) -> None:
    """Put off what evens images out: most tests say where an image is, and are not to find it moved under them."""
    settings = "/etc/rbdgate/rbdgate.toml"
    text = r"\n[timers]\nfailback_delay = 3600\n"
    scene.shell(node, f"grep -q failback_delay {settings} || printf '{text}' >> {settings}")
    scene.run(node, "systemctl", "restart", "rbdgate-agent")


def install_sampler(scene: Scene, node: str) -> None:
    """Have the gateway write down its exports, after each boot too."""
    unit = (
        "[Unit]\nDescription=samples of the enabled portals, for a test\n"
        f"[Service]\nExecStart=/usr/bin/python3 {SAMPLES}.py {SAMPLES}\nRestart=always\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    scene.put(node, f"{SAMPLES}.py", SAMPLER.read_bytes())
    scene.put(node, "/etc/systemd/system/rbdgate-sampler.service", unit.encode())
    scene.run(node, "systemctl", "enable", "--now", "--quiet", "rbdgate-sampler.service")


@pytest.fixture(scope="session")
def disk(scene: Scene) -> Disk:
    """A disk with two paths, logged in on the initiator."""
    known = {image["name"] for image in scene.rbdgate("image", "list")}
    if IMAGE not in known:
        scene.create(IMAGE)
    return scene.log_in(IMAGE)


class NotWhole(NotInTime):
    """The lab could not be made whole again, so what is tried on it next says nothing."""


def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """End the run where every test to come would wait for a lab that is not whole, and fail."""
    if call.excinfo is not None and call.excinfo.errisinstance(NotWhole):
        node.session.shouldfail = f"the lab is not whole after {node.nodeid}"


def recover(scene: Scene) -> None:
    """Undo every fault, and return when all gateways are live and everything is served; NotWhole if that fails."""
    try:
        _recover(scene)
    except NotInTime as error:
        raise NotWhole(str(error)) from error


def _recover(scene: Scene) -> None:
    lab = scene.lab
    for member in scene.etcd.members:
        member.cont()
    scene.etcd.start()
    scene.ceph.mon.signal(signal.SIGCONT)
    for number in range(2):
        scene.ceph.osd(number).cont()
    for node in scene.gateways:
        state = lab.state(node)
        if state is State.PAUSED:
            lab.resume(node)
        elif state is State.OFF:
            lab.boot(node)
        lab.heal(node)
    for node in scene.gateways:
        scene.shell(node, SET_GOING, within=120, check=False)
    scene.front = scene.gateways[0]
    until("every gateway is live", lambda: scene.live() >= set(scene.gateways), within=HEALTHY_WITHIN)
    until("every image is served", lambda: not unserved(scene), within=HEALTHY_WITHIN)
    if IMAGE in scene.image_names():
        until("the initiator has all its paths", lambda: scene.paths_up(IMAGE) == 2, within=HEALTHY_WITHIN)


def unserved(scene: Scene) -> list[str]:
    """The images that are not served whole, with the reason."""
    images = scene.rbdgate("image", "list")
    return [f"{image['name']}: {image['state']} {image['reason']}" for image in images if image["state"] != "serving"]


_runs = iter(range(1, 1000))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, and where to look."""
    for line in _remarks:
        terminalreporter.write_line(line)


@pytest.fixture
def write(scene: Scene, disk: Disk, request: pytest.FixtureRequest) -> Iterator[Writing]:
    """A writer on the disk with 200 acknowledged writes behind it; afterwards, whatever was broken is made whole."""
    marker = request.node.get_closest_marker("writer")
    with written(scene, disk, request, **(marker.kwargs if marker else {})) as writing:
        yield writing
        remember_stalls(writing, request)
    recover(scene)


@contextmanager
def written(scene: Scene, disk: Disk, request: pytest.FixtureRequest, **options: Any) -> Iterator[Writing]:
    """A writer on a disk, ended at the end however the test went."""
    name = f"run{next(_runs)}-{int(time.time())}"
    writing = Writing(scene.lab, name, disk.device, **options)
    try:
        writing.wait_acknowledged()
        yield writing
    finally:
        scene.run("ini1", "systemctl", "kill", "--signal=KILL", f"checker-{name}.service", check=False)


def remember_stalls(writing: Writing, request: pytest.FixtureRequest) -> None:
    """Have the stalls told at the end, and those that a test stands for put into its result."""
    history = writing.history()
    for (mark, since), (_, until_time) in itertools.pairwise([*history.marks, ("end", history.last_time)]):
        stall = longest_stall(history, since, until_time).seconds
        _remarks.append(f"{request.node.name}: longest stall after {mark}: {stall:.2f} s")
    for kind, seconds in writing.stalls.items():
        request.node.user_properties.append(("stall", (kind.value, round(seconds, 2))))
