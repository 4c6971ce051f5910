"""Are this gateway and the others members, of one version, and able to take images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Subject, Unread
from gateway.model import ClusterView, Label, NodeState
from gateway.report import NodeReport

GATEWAYS = Subject("gateways")


@dataclass(frozen=True)
class GatewayFacts:
    """The cluster and what its nodes say, this node's name, and the version of the program that asks."""

    node: Label
    version: str
    view: ClusterView | Unread
    reports: Mapping[Label, NodeReport]


def check(facts: GatewayFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    if isinstance(facts.view, Unread):
        yield GATEWAYS.unread(facts.view, "see what is said of etcd")
        return
    yield from _here(facts, facts.view)
    yield from _others(facts, facts.view)
    yield from _versions(facts, facts.view)
    yield from _broken(facts.view)


def _here(facts: GatewayFacts, view: ClusterView) -> Iterator[Finding]:
    if facts.node not in view.live:
        yield GATEWAYS.error(
            f"this node, {facts.node}, is not live: its agent has no lease in etcd",
            "`systemctl status rbdgate-agent`; its status line says what it waits for",
        )
        return
    report = facts.reports.get(facts.node)
    if report is not None and report.obstacle:
        yield GATEWAYS.error(f"this node takes no images: {report.obstacle}", "put that right; it goes on by itself")
    else:
        yield GATEWAYS.ok(f"this node, {facts.node}, is live" + (f": {report.sentence}" if report else ""))
    state = view.state_of(facts.node)
    if state not in (None, NodeState.ACTIVE):
        yield GATEWAYS.warning(
            f"an operator has put this node into {state.value if state else '?'}", f"`rbdgate node resume {facts.node}`"
        )


def _others(facts: GatewayFacts, view: ClusterView) -> Iterator[Finding]:
    known = sorted((set(view.nodes) | set(view.live)) - {facts.node})
    for node in known:
        report = facts.reports.get(node)
        if node not in view.live:
            yield GATEWAYS.warning(
                f"node {node} is not live", f"start it; if it is gone for good: `rbdgate node remove {node}`"
            )
        elif report is not None and report.obstacle:
            yield GATEWAYS.warning(f"node {node} takes no images: {report.obstacle}", f"run the doctor on {node}")
    live = len(view.live)
    if live < 2:
        yield GATEWAYS.warning(f"{live} gateway is live: nobody takes over when it dies", "run two gateways or more")
    else:
        yield GATEWAYS.ok(f"{live} of {len(known) + 1} gateways are live")


def _versions(facts: GatewayFacts, view: ClusterView) -> Iterator[Finding]:
    versions: dict[str, list[str]] = {}
    for node, live in sorted(view.live.items()):
        versions.setdefault(live.version, []).append(str(node))
    if len(versions) > 1:
        told = ", ".join(f"{version} on {' '.join(nodes)}" for version, nodes in sorted(versions.items()))
        yield GATEWAYS.warning(f"the gateways run different versions: {told}", "finish the upgrade")
    here = view.live.get(facts.node)
    if here is not None and here.version != facts.version:
        yield GATEWAYS.warning(
            f"this node's agent runs {here.version}, and {facts.version} is installed",
            "`systemctl restart rbdgate-agent`",
        )


def _broken(view: ClusterView) -> Iterator[Finding]:
    for name, why in sorted(view.broken.items()):
        yield GATEWAYS.error(f"what etcd has of {name} cannot be read: {why}", "restore that key from a backup of etcd")
