"""What keeping reservations costs: REGISTER and RESERVE with the trap and on plain LIO, and what reads and writes pay.

    python -m tests.bench.reservations [--rounds 100]

Makes a lab of one gateway and one initiator, and measures in one run, in turns: a served image, and a RAM disk that the
same kernel exports without rbdgate. Then the commit alone: a guarded write to an image's header from the same gateway.
Prints medians in milliseconds with their ratio, and how many requests the trap's file system got during 1,000 reads and
1,000 writes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack, closing

from tests.lab.cluster import Lab, own_name
from tests.lab_product.reserving import (
    NODE,
    PLAIN,
    Line,
    Target,
    plain_disk,
    portals_of,
    second_initiator,
    served_image,
)
from tests.lab_product.scene import Scene
from tests.lab_product.waiting import for_seconds
from tests.spc4.model import Command, Done, Nexus, RegisterAndIgnore, Release, Reserve, Type
from tests.spc4.sequences import Step

A = Nexus("a", 1)
TYPE = Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
IMAGE, GATEWAY = "rbd/bench", "gw1"
BLOCKS = 1000

COMMITS = """
import json, sys, time
from gateway.images.cluster import CephConnection
from gateway.images.header import commit_pr_info, take_over
from gateway.images.holder import Holder
from gateway.images.image import create_image, header_of
from gateway.images.sequence import next_pr_info
from gateway.model import ImageName, Instance, Label
from gateway.settings import Settings
ceph, name = Settings.load().ceph, ImageName("rbd", "bench-commits")
with CephConnection(ceph.conf, ceph.user, ceph.keyring, op_timeout=10) as connection:
    header = header_of(connection, name, create_image(connection, name, 4 << 20))
    take_over(header, None, Holder(1, Label("bench"), (connection.instance,)))
    took = []
    for _ in range(int(sys.argv[1])):
        began = time.monotonic()
        commit_pr_info(header, 1, Label("bench"), next_pr_info)
        took.append(time.monotonic() - began)
print(json.dumps(took))
"""


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    lab = Lab(own_name("bench"))
    lab.down()
    try:
        lab.up(gateways=1, initiators=1)
        measure(Scene(lab, (GATEWAY,)), rounds)
    finally:
        lab.down()
    return 0


def measure(scene: Scene, rounds: int) -> None:
    """Both targets, command by command in turns, then the commit alone, then reads and writes."""
    with ExitStack() as things:
        things.enter_context(second_initiator(scene))
        line = things.enter_context(closing(Line(scene)))
        image = things.enter_context(served_image(scene, IMAGE))
        plain = things.enter_context(plain_disk(scene, GATEWAY))
        kept = things.enter_context(Target(scene, line, image["iqn"], portals_of(image)))
        bare = things.enter_context(Target(scene, line, PLAIN, plain))
        times: dict[tuple[str, str], list[float]] = {}
        for number in range(rounds):
            for command in (RegisterAndIgnore(number + 1), Reserve(number + 1, TYPE), Release(number + 1, TYPE)):
                for who, target in (("plain", bare), ("kept", kept)):
                    times.setdefault((type(command).__name__, who), []).append(timed(target, command))
        python = "/opt/rbdgate/bin/python"
        commits = json.loads(scene.run(GATEWAY, python, "-c", COMMITS, str(rounds), within=300))
        report(times, commits)
        print(f"requests to the trap during {BLOCKS} reads and {BLOCKS} writes: {requests_of_io(scene, kept)}")


def timed(target: Target, command: Command) -> float:
    """Seconds from sending a command to its answer, which has to be GOOD."""
    began = time.monotonic()
    heard = target.ask(Step(A, command))
    took = time.monotonic() - began
    if heard.reply != Done():
        raise RuntimeError(f"{command} was answered {heard}")
    return took


def report(times: dict[tuple[str, str], list[float]], commits: list[float]) -> None:
    """A line a command, medians in milliseconds."""
    print("| command | plain LIO | kept | ratio |\n|---|---|---|---|")
    for name in dict.fromkeys(command for command, _ in times):
        plain, kept = (statistics.median(times[name, who]) * 1000 for who in ("plain", "kept"))
        print(f"| {name} | {plain:.1f} ms | {kept:.1f} ms | {kept / plain:.1f} |")
    print(f"the commit alone: {statistics.median(commits) * 1000:.1f} ms, of {len(commits)}")


def requests_of_io(scene: Scene, target: Target) -> int:
    """How many requests the trap's file system got while blocks were read and written."""
    before = counted(scene)
    device = target.device(A)
    for source, sink in ((device, "/dev/null"), ("/dev/zero", device)):
        words = ("sg_dd", f"if={source}", f"of={sink}", "bs=512", f"count={BLOCKS}", "bpt=1")
        scene.run(NODE, *words, within=300)
    for_seconds(2.5)  # the guard writes its counts down once a second
    return counted(scene) - before


def counted(scene: Scene) -> int:
    """The requests so far."""
    return int(json.loads(scene.run(GATEWAY, "cat", "/run/rbdgate/figures"))["requests"])


if __name__ == "__main__":
    sys.exit(main())
