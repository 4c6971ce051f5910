"""Reads what `checks/leftovers.py` judges: LIO, krbd, addresses, cuts, and what `/run` has of the agent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from gateway import lio, network
from gateway.doctor.checks.leftovers import LeftoverFacts, Tenure
from gateway.doctor.finding import Unread
from gateway.doctor.reading.attempts import attempt, text_of
from gateway.doctor.sources import Sources
from gateway.images.krbd import Krbd
from gateway.lio.configfs import entries, exists, links
from gateway.lio.names import ISCSI, device_of, tag_of, target_path, tpg_path
from gateway.model import ClusterView, Iqn
from gateway.observed import Device, Target


def read(sources: Sources) -> LeftoverFacts | Unread:
    """What of ours, and of others', is on this node."""
    settings, status = sources.settings, sources.status()
    if isinstance(settings, Unread):
        return settings
    view = status if isinstance(status, Unread) else status.view
    net = attempt("addresses", lambda: _network(view))
    run = settings.runtime_directory
    return LeftoverFacts(
        node=settings.node,
        view=view,
        devices=attempt("LIO's backstores", _devices),
        targets=attempt("LIO's targets", _targets),
        mappings=attempt("krbd's mappings", Krbd().mappings),
        addresses=net if isinstance(net, Unread) else frozenset(net.addresses),
        cuts=net if isinstance(net, Unread) else net.cuts,
        tenure=attempt("the tenure in /run", lambda: _tenure(run / "tenure")),
        strays=tuple(sorted(str(path) for path in run.glob(".*.*"))),
    )


def _network(view: ClusterView | Unread) -> network.NetworkView:
    """With the cluster known, portal addresses without our mark are seen too, as an administrator would add one."""
    if isinstance(view, Unread):
        return network.observe_own()
    portals = frozenset(path.address for spec in view.images.values() for path in spec.paths)
    return network.observe(view.settings, portals)


def _devices() -> tuple[Device, ...]:
    return lio.observe_devices() if exists("/sys/kernel/config/target/core") else ()


def _targets() -> tuple[tuple[Target, tuple[str, ...]], ...]:
    if not exists(ISCSI):
        return ()
    return tuple((target, tuple(_foreign(target.iqn))) for target in lio.observe_targets())


def _foreign(iqn: Iqn) -> Iterator[str]:
    """The backstores under a target's LUNs that are not ours."""
    for tag in filter(None, map(tag_of, entries(target_path(iqn)))):
        luns = f"{tpg_path(iqn, tag)}/lun"
        for lun in entries(luns):
            yield from (to.rpartition("core/")[2] for to in links(f"{luns}/{lun}").values() if device_of(to) is None)


def _tenure(path: Path) -> Tenure | None:
    """The file is the agent's (gateway/runtime.py): boot id, and the end on CLOCK_BOOTTIME."""
    text = text_of(path)
    if text is None:
        return None
    value = json.loads(text)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    left = float(value["end"]) - time.clock_gettime(time.CLOCK_BOOTTIME)
    return Tenure(str(value["boot_id"]) == boot, left)
