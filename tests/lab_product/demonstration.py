"""Shows rbdgate at work on one machine: a lab of real kernels, Ceph and etcd, and a disk that survives its gateway.

tests/demo          brings the lab up, shows a planned move, an agent upgrade and a power cut, takes the lab down
tests/demo --keep   the same, and leaves the lab up to look around in

Ends with one line of JSON; exit status 0 only if no acknowledged write was lost, 2 if it cannot run here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab.cluster import Lab
from tests.lab.layout import LabError
from tests.lab_product.bounds import PAST_A_LEASE
from tests.lab_product.scene import NEXT, Disk, Scene, keep_logs
from tests.lab_product.waiting import for_seconds, until
from tests.lab_product.writing import Writing, region_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests/results/demo"
IMAGE = "rbd/demo"
SIZE = 1 << 30  # bytes
MOUNT = "/mnt"
A_MINUTE = 60.0  # seconds: a restart's stall is held against the longest normal one in the minute before
FILES = 8  # of 256 KiB each, with their checksums


def main() -> int:
    """The whole show."""
    parser = argparse.ArgumentParser(prog="tests/demo", description="Show rbdgate at work on one machine.")
    parser.add_argument("--keep", action="store_true", help="leave the lab up and say how to look around")
    parser.add_argument("--name", default="demo", help="the lab's name (default: demo)")
    options = parser.parse_args()
    installed = subprocess.run([ROOT / "tests" / "install"], check=False)
    if installed.returncode:
        return installed.returncode
    try:
        return perform(Lab(options.name, say=lambda line: say(f"  {line}")), keep=options.keep)
    except LabError as error:
        sys.stderr.write(f"tests/demo: {error}\n")
        return 1


def perform(lab: Lab, *, keep: bool) -> int:
    """Bring the lab up, show everything, take it down; the exit status."""
    with chapter("bring the lab up: 3 etcd members, Ceph, 3 gateways, 1 initiator"):
        lab.up(gateways=3, initiators=1)
    try:
        verdict, stalls = show(lab)
    except BaseException:
        say(f"! this went wrong; what the nodes said is kept in {keep_logs(lab)}")
        raise
    finally:
        if not keep:
            with chapter("take the lab down"):
                lab.down()
    if keep:
        look_around(lab.name)
    if not verdict["clean"]:
        say(f"! the checker found: {json.dumps(verdict)}")
    figures = stalls | {
        "acknowledged_writes": verdict["acknowledged_writes"],
        "lost_writes": verdict["lost_writes"],
        "stale_blocks": len(verdict["stale_blocks"]) + len(verdict["foreign_blocks"]),
    }
    say(json.dumps(figures))
    return 0 if verdict["clean"] else 1


def show(lab: Lab) -> tuple[dict[str, Any], dict[str, float]]:
    """Everything between `up` and `down`; the judge's answer, and the longest stalls in seconds."""
    scene = Scene(lab)
    disk = serve(scene)
    writing = Writing(lab, "demo", disk.device, offset=region_of(SIZE, 6))
    writing.wait_acknowledged()
    planned_move(scene, writing)
    restart_agent(scene, writing)
    power_cut(scene, writing)
    with chapter("stop the writer and read everything back"):
        writing.stop()
        verdict = writing.verify()
        scene.shell("ini1", f"echo 3 > /proc/sys/vm/drop_caches && cd {MOUNT} && sha256sum --quiet -c sums", 120)
        scene.shell("ini1", f"umount {MOUNT} && e2fsck -fn {disk.device}", 120)
    say(scene.run(scene.front, "rbdgate", "status"))
    say(scene.run(scene.front, "rbdgate", "events", "--image", IMAGE))
    say(f"How long the writer stood still, over time: {draw_stalls(writing)}")
    marks = {
        "planned_move_stall_s": ("move", "moved"),
        "agent_restart_stall_s": ("restart", "restarted"),
        "crash_stall_s": ("crash", "crashed"),
    }
    return verdict, {key: round(writing.stall(*between).seconds, 2) for key, between in marks.items()}


def draw_stalls(writing: Writing) -> Path:
    """Draw the writer's stalls from its journal; that needs the virtual environment, and nothing else here does."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    journal, picture = RESULTS / "writer.journal", RESULTS / "stalls.png"
    journal.write_text(writing.journal())
    subprocess.run([ROOT / ".venv/bin/python", "-m", "tests.stall_plot", journal, picture], cwd=ROOT, check=True)
    return picture


def serve(scene: Scene) -> Disk:
    """Make an image, log in on both paths, put a file system on the first half of the disk."""
    with chapter(f"create {IMAGE} with two paths and allow the initiator"):
        image = scene.create(IMAGE)
        for path in image["paths"]:
            say(f"  path {path['tag']}: {path['address']}:{path['port']} on {path['network']}, at {image['holder']}")
    with chapter("log in with open-iscsi; multipath makes one disk of two paths"):
        disk = scene.log_in(IMAGE)
        say(f"  {disk.device}")
    with chapter("make a file system on the first half and fill in some files"):
        scene.shell(
            "ini1", f"mkfs.ext4 -q -F -E nodiscard -J size=4 {disk.device} 512M && mount {disk.device} {MOUNT}", 120
        )
        scene.shell(
            "ini1",
            f"cd {MOUNT} && for n in $(seq {FILES}); do head -c 262144 /dev/urandom > file$n; done"
            " && sha256sum file* > sums && sync",
            120,
        )
    return disk


def planned_move(scene: Scene, writing: Writing) -> None:
    """Move the image to another gateway while the writer runs."""
    here = scene.holder(IMAGE)
    there = next(node for node in scene.gateways if node != here)
    with chapter(f"planned move from {here} to {there}"):
        writing.mark("move")
        scene.rbdgate("image", "move", IMAGE, "--to", there)
        scene.wait_serving(IMAGE, by=there)
        writing.wait_acknowledged()
        writing.mark("moved")
        tell(writing, "move", "moved")


def restart_agent(scene: Scene, writing: Writing) -> None:
    """Upgrade every gateway's agent to another version, then kill the holder's; no session notices."""
    holder = scene.holder(IMAGE)
    # A node has one processor: what is asked of the holder's command line would be measured along with its agent.
    scene.front = next(node for node in scene.gateways if node != holder)
    with chapter(f"upgrade every agent to {NEXT}, kill -9 the holder's"):
        wheel = scene.lab.wheel(NEXT)
        for node in scene.gateways:
            scene.lab.install(node, wheel)
        sessions = scene.target_sessions(holder)
        say(f"  a quiet minute first, to have something to compare with ({A_MINUTE:.0f} s)")
        writing.mark("quiet")
        for_seconds(A_MINUTE)
        writing.mark("restart")
        normal = writing.stall("quiet", "restart").seconds
        for node in scene.gateways:
            scene.run(node, "systemctl", "restart", "rbdgate-agent.service", within=120)
            until(f"{node} runs {NEXT}", partial(runs, scene, node, NEXT), within=60)
            say(f"  {node} runs {NEXT}")
        writing.mark("kill")
        scene.kill_agent(holder)
        for_seconds(PAST_A_LEASE)  # a lease that was not taken up would have run out by now
        scene.wait_serving(IMAGE, by=holder)
        writing.wait_acknowledged()
        writing.mark("restarted")
        if scene.target_sessions(holder) != sessions:
            raise AssertionError("an iSCSI session was renewed by restarting the agent")
        tell(writing, "restart", "restarted")
        say(f"  no session was renewed; in the quiet minute before it was {normal:.2f} s")


def runs(scene: Scene, node: str, version: str) -> bool:
    """Whether that node's agent says it is of that version."""
    return bool(scene.rbdgate("node", "show", node)["version"] == version)


def power_cut(scene: Scene, writing: Writing) -> None:
    """Cut the holder's power while the writer runs."""
    holder = scene.holder(IMAGE)
    scene.front = next(node for node in scene.gateways if node != holder)
    with chapter(f"power cut of the holder, {holder}"):
        writing.mark("crash")
        scene.lab.crash(holder)
        until("another gateway holds the image", lambda: scene.image(IMAGE)["holder"] not in (None, holder), within=60)
        scene.wait_serving(IMAGE)
        writing.wait_acknowledged()
        writing.mark("crashed")
        tell(writing, "crash", "crashed")
    with chapter(f"{holder} comes back"):
        scene.lab.boot(holder)
        until(f"{holder} is live", lambda: scene.rbdgate("node", "show", holder)["live"], within=90)


def tell(writing: Writing, since: str, until_mark: str) -> None:
    """Print the longest stall of the writer between two marks."""
    say(f"  longest stall of the writer: {writing.stall(since, until_mark).seconds:.2f} s")


def say(line: str) -> None:
    """One line for the person who watches, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def chapter(title: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    began = time.monotonic()
    say(f"* {title}")
    yield
    say(f"  done in {time.monotonic() - began:.1f} s")


def look_around(name: str) -> None:
    """Say how to go on with a lab that was kept."""
    lab = f"tests/lab/lab --name {name}"
    say(f"The lab is up. Look around: {lab} status; {lab} exec gw1 -- rbdgate status; {lab} exec ini1 -- multipath -ll")
    say(f"Hurt it: {lab} crash gw1; {lab} -h has more. Take it down: {lab} down")
