"""Since when what a node reports has been so: each report gets the times of the one before, where nothing changed.

The times stand in the node's report in etcd, so that they are told without asking any node, and outlive the agent: its
successor begins with what it finds there. They are for people; nothing is decided on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from gateway.model import Label
from gateway.report import ImageReport, NodeReport, PathReport


class Since:
    """Remembers one node's last report; `wall` is the time as events carry it."""

    def __init__(self, wall: Callable[[], str]) -> None:
        self._wall = wall
        self._last: NodeReport | None = None
        self._asked = False

    def dated(self, report: NodeReport, down: Iterable[Label], former: Callable[[], NodeReport | None]) -> NodeReport:
        """The report with the time of each thing in it, `down` being the networks that are down here.

        `former` is asked once, for what an earlier agent of this node said.
        """
        if not self._asked:
            self._last, self._asked = former(), True
        now, last = self._wall(), self._last
        images = {image.uid: image for image in last.images} if last is not None else {}
        same = last is not None and bool(last.obstacle) == bool(report.obstacle)
        dated = replace(
            report,
            since="" if not report.obstacle else (last.since or now) if last is not None and same else now,
            down={str(name): (last.down.get(str(name)) if last is not None else None) or now for name in sorted(down)},
            images=tuple(_dated(image, images.get(image.uid), now) for image in report.images),
        )
        self._last = dated
        return dated


def _dated(image: ImageReport, last: ImageReport | None, now: str) -> ImageReport:
    """A new claim begins anew: what another one found says nothing about what this one does."""
    if last is None or last.token != image.token:
        last = ImageReport(image.uid, image.token, exported=not image.exported, paths=())
    paths = {path.tag: path for path in last.paths}
    same = (last.exported, bool(last.error)) == (image.exported, bool(image.error))
    return replace(
        image,
        since=last.since or now if same else now,
        paths=tuple(_path_dated(path, paths.get(path.tag), now) for path in image.paths),
    )


def _path_dated(path: PathReport, last: PathReport | None, now: str) -> PathReport:
    """Another reason for being down is no other state."""
    same = last is not None and last.up == path.up
    return replace(path, since=(last.since or now) if last is not None and same else now)
