"""What a scrape costs: file reads, processor time and bytes at 10, 100 and 1,000 images held by one gateway.

    python -m tests.bench.scrape [--rounds 20]

The tree has the same shape at each size: every image with two paths, exported, used, and with 10 registrations on
record, beside as many block devices in /proc/diskstats. The values come from the fakes that unit tests use; what is
measured, the collector with its files, is the agent's own. The first scrape after a turn works the cluster's status out
anew, the next ones have it; both are told, as medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from agent.monitoring.sights import ClusterSight
from agent.monitoring.tables import Table
from gateway.model import ImageName, ImageSpec
from gateway.observed import Kernel
from gateway.report import ImageReport, NodeReport, PathReport
from tests.fakes.member import Cluster, Member
from tests.fakes.scraped import DISK, Scraped
from tests.unit.test_plan import NETWORKS, spec_of

SIZES = (10, 100, 1000)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    print("| images held | files opened | bytes answered | processor time, after a turn | processor time, again |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as place:
            print(measure(size, rounds, Path(place)), flush=True)
    return 0


def measure(size: int, rounds: int, place: Path) -> str:
    """One row."""
    scraped = gateway_with(size, place)
    first, again = [], []
    for _ in range(rounds):
        board = scraped.live.board
        if board.cluster is not None:
            board.cluster = replace(board.cluster)  # as a turn does: what was worked out before is gone
        first.append(seconds_of(scraped))
        again.append(seconds_of(scraped))
    files = files_opened(scraped)
    milliseconds = [f"{statistics.median(each) * 1000:.1f} ms" for each in (first, again)]
    return f"| {size:,} | {files} | {len(scraped.text()):,} | {' | '.join(milliseconds)} |"


def seconds_of(scraped: Scraped) -> float:
    """The processor time of one scrape."""
    began = time.thread_time()
    scraped.text()
    return time.thread_time() - began


def files_opened(scraped: Scraped) -> int:
    """How many files one scrape opens, by the interpreter's own word; the process's own figures are among them."""
    opened: list[str] = []
    watching = [True]

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watching[0]:
            opened.append(str(arguments[0]))

    sys.addaudithook(hear)
    scraped.text()
    watching[0] = False
    return len(opened)


def gateway_with(size: int, place: Path) -> Scraped:
    """A node that holds so many images, as its last turn saw it."""
    member = Member(Cluster(NETWORKS, (spec_of(1),)), "gw1", place)
    member.start()
    member.settle()
    scraped = Scraped(member, place)
    board = scraped.live.board
    assert board.cluster is not None
    assert board.kernel is not None
    assert board.held is not None
    specs = [spec(number) for number in range(1, size + 1)]
    view, claim = board.cluster.view, next(iter(board.cluster.view.claims.values()))
    images = tuple(
        ImageReport(each.uid, claim.token, exported=True, paths=tuple(PathReport(p.tag, up=True) for p in each.paths))
        for each in specs
    )
    names = {each.name: each for each in specs}
    board.cluster = ClusterSight(
        replace(
            view,
            images=names,
            revisions=dict.fromkeys(names, 1),
            claims={each.uid: claim for each in specs},
        ),
        {member.name: NodeReport(member.name, "1", "", images).to_json()},
        board.cluster.at,
        board.cluster.wall,
    )
    board.kernel = replace(board.kernel, kernel=kernel_with(specs, board.kernel.kernel))
    board.held = replace(board.held, images=images, connections={each.uid: 2 for each in specs})
    for each in specs:
        scraped.figures.table(each.uid, Table(10, reserved=True, size=1500))
        scraped.figures.committed(each.uid, 0.003)
        member.monitor.counts.held(str(each.name))
    scraped.guard_writes()
    scraped.diskstats.write_text("".join(DISK.format(number=number) for number in range(size + 1)))
    member.stop()
    return scraped


def spec(number: int) -> ImageSpec:
    """An image of that number, with addresses of its own."""
    one = spec_of(1)
    uid = f"{number:016x}"
    paths = tuple(replace(path, address=ip_address((10 << 24) + (path.tag << 20) + number)) for path in one.paths)
    identity = replace(one.identity, iqn=type(one.identity.iqn)(f"iqn.2026-11.io.rbdgate:disk{number}"))
    return replace(one, name=ImageName("rbd", f"disk{number}"), uid=uid, image_id=uid, paths=paths, identity=identity)


def kernel_with(specs: list[ImageSpec], seen: Kernel) -> Kernel:
    """The kernel of a node that exports all of these as it was seen to export one."""
    device, target = seen.devices[0], seen.targets[0]
    return replace(
        seen,
        devices=tuple(
            replace(device, name=replace(device.name, uid=each.uid), dev_path=f"/dev/rbd{number}")
            for number, each in enumerate(specs, start=1)
        ),
        targets=tuple(replace(target, iqn=each.identity.iqn) for each in specs),
        addresses={path.address: seen.networks[path.network].name for each in specs for path in each.paths},
    )


if __name__ == "__main__":
    sys.exit(main())
