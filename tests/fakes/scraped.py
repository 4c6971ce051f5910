"""A member whose figures are scraped: the real collector and pages over the fakes, and what a scrape says as values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from agent.clock import boottime
from agent.monitoring.collector import Sources, registry_of
from agent.monitoring.guard_file import GuardFigures
from agent.monitoring.pages import Pages
from agent.monitoring.readiness import Live
from gateway.store.values import MemberStatus
from gateway.timers import Timers
from tests.fakes.member import Member

DISK = "   8   0 rbd{number} 10 0 80 500 20 0 160 1500 3 2000 2100 4 0 32 100 0 0\n"
"""One line of /proc/diskstats: 10 reads of 40 KiB, 20 writes of 80 KiB, 4 discards of 16 KiB, 3 under way."""


class Scraped:
    """The figures of one member."""

    def __init__(self, member: Member, place: Path) -> None:
        self.member, self.place = member, place
        self.diskstats = place / "diskstats"
        self.figures = GuardFigures(self.clock, 1000.0)
        self.answering = MemberStatus("etcd:2379", 1, 1, 1, 1, "3.4", 4096)
        self.live = Live(
            clock=self.clock,
            board=member.monitor.board,
            started=member.monitor.started,
            tenure=lambda: replace(member.membership.tenure, end=boottime() + 8),
            reachability=member.reachability,
            connected=lambda: member.link.storage is not None,
            guard_sign=member.sign,
        )
        self.sources = Sources(
            node=str(member.name),
            version="1",
            timers=Timers(),
            live=self.live,
            guard_file=place / "figures",
            members=lambda _now: {"etcd:2379": self.answering, "gone:2379": None},
            at_work=member.workers.count,
            failing=lambda: len(member.workers.failing((Exception,))),
            events=lambda: (1, 2),
            given_up=lambda: False,
            diskstats=self.diskstats,
        )
        self.pages = Pages(registry_of(member.monitor.counts, self.sources), self.live)

    def clock(self) -> float:
        """The agent's clock."""
        return boottime() + self.member.ahead

    def guard_writes(self) -> None:
        """The guard leaves its figures."""
        text = self.figures.text(self.clock(), cut=False, mounted=True, requests=7)
        self.sources.guard_file.write_text(text)

    def disks(self) -> None:
        """Each mapped device has its line."""
        numbers = [mapping.number for mapping in self.member.kernel.state.mappings]
        self.diskstats.write_text("".join(DISK.format(number=number) for number in numbers))

    def text(self) -> str:
        """One scrape."""
        return self.pages.page("/metrics").body.decode()

    def samples(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """One scrape: the figures of each name by their labels."""
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def one(self, name: str, **labels: str) -> float | None:
        """One figure; None if it is absent."""
        return self.samples().get(f"rbdgate_{name}", {}).get(tuple(sorted(labels.items())))
