"""The rule that holds throughout: never two nodes with an enabled portal for one image, unless the older is fenced.

Pure: samples of the gateways' kernels and Ceph's blocklist go in, violations come out as sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from gateway.timers import BLOCKLIST_EXPIRY

A_DAY = 86400.0  # seconds: longer than any run of tests


@dataclass(frozen=True)
class Export:
    """One enabled portal: `token` orders the claims it was built under, `instance` is krbd's client below it."""

    iqn: str
    tag: int
    token: int
    instance: str


@dataclass(frozen=True)
class Span:
    """A time in which a node certainly had a portal enabled: samples of one boot that agree; seconds."""

    node: str
    export: Export
    began: float
    ended: float


def read_samples(lines: Iterable[str]) -> Iterator[tuple[float, str, frozenset[Export]]]:
    """The samples of one node: time, boot id and exports. A line cut off by a power cut is left out."""
    for line in lines:
        try:
            sample = json.loads(line)
        except ValueError:
            continue
        exports = frozenset(
            Export(iqn, tag, _token(device), instance) for iqn, tag, device, instance in sample["exports"]
        )
        yield sample["time"], sample["boot"], exports


def _token(device: str) -> int:
    """The claim's token at the end of a backstore's name; 0 for one that is none of ours."""
    last = device.rpartition(".")[2]
    return int(last) if last.isdigit() else 0


def spans(node: str, lines: Iterable[str]) -> list[Span]:
    """When the node had what enabled: from the first to the last of the samples in a row, of one boot, that say so."""
    found: list[Span] = []
    began: dict[Export, float] = {}
    last, boot = 0.0, ""
    for time, its_boot, exports in (*read_samples(lines), (0.0, "the end", frozenset[Export]())):
        ended = began.keys() if its_boot != boot else began.keys() - exports
        found += [Span(node, export, began[export], last) for export in ended]
        began = {export: time if export in ended else began.get(export, time) for export in exports}
        last, boot = time, its_boot
    return found


def fence_times(blocklist: Mapping[str, str], *, now: float) -> dict[str, float]:
    """When each instance was fenced, from its entry's end (as `osd blocklist ls` prints it); seconds, as is `now`.

    A fence lasts a year (gateway/timers.py). What ends sooner somebody else put there at a time that cannot be told, so
    it is left out and excuses nothing.
    """
    ends = {
        instance: datetime.strptime(end, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() for instance, end in blocklist.items()
    }
    began = {instance: end - BLOCKLIST_EXPIRY for instance, end in ends.items()}
    return {instance: time for instance, time in began.items() if time > now - A_DAY}


def violations(all_spans: Iterable[Span], fenced_at: Mapping[str, float], *, slack: float) -> list[str]:
    """Every overlap of two nodes on one image in which the older one's instance was not fenced by then.

    `slack` is by how many seconds two nodes' clocks may differ.
    """
    by_iqn: dict[str, list[Span]] = {}
    for span in all_spans:
        by_iqn.setdefault(span.export.iqn, []).append(span)
    found = set()
    for iqn, mine in by_iqn.items():
        for newer in mine:
            for older in mine:
                if older.node == newer.node or older.export.token >= newer.export.token:
                    continue
                overlap = min(older.ended, newer.ended) - max(older.began, newer.began)
                fenced = fenced_at.get(older.export.instance)
                if overlap > slack and (fenced is None or fenced > max(older.began, newer.began) + slack):
                    found.add(
                        f"{iqn}: {older.node} (token {older.export.token}, instance {older.export.instance}) still had"
                        f" a portal enabled while {newer.node} (token {newer.export.token}) had one, unfenced"
                    )
    return sorted(found)
