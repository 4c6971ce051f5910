"""The lab's wires: one network namespace with bridges and taps, and the rules that cut a node off.

A cut is a table of nftables' bridge family named `cut_<node>_<what>`, so what is cut stands in the kernel alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.belonging import kill
from tests.lab.host import run
from tests.lab.layout import (
    ETCD_ADDRESSES,
    MGMT,
    MON_ADDRESS,
    NETWORKS,
    OSD_ADDRESSES,
    STORAGE_1,
    STORAGE_2,
    LabError,
    LabUsage,
    Network,
    Node,
)

CUTS = ("etcd", "ceph", "storage-1", "storage-2", "all")
_FAR_SIDE: Mapping[str, tuple[str, ...]] = {"etcd": ETCD_ADDRESSES, "ceph": (MON_ADDRESS, *OSD_ADDRESSES)}


@dataclass(frozen=True)
class Wires:
    """The network namespace of one lab."""

    netns: str

    def exists(self) -> bool:
        """Whether the namespace is there."""
        return Path(f"/run/netns/{self.netns}").exists()

    def create(self, nodes: Sequence[Node]) -> None:
        """Make the namespace, its bridges with the host's addresses, and every node's taps."""
        run(["ip", "netns", "add", self.netns])
        lines = ["link set lo up"]
        for network in NETWORKS:
            lines += _bridge_lines(network)
        for node in nodes:
            for link in node.links:
                lines += [
                    f"tuntap add mode tap name {link.tap}",
                    f"link set {link.tap} addrgenmode none master {link.network.name} up",
                ]
        run(["ip", "-n", self.netns, "-batch", "-"], stdin="\n".join(lines) + "\n")

    @property
    def enter(self) -> tuple[str, ...]:
        """Words before a command that make it run in the namespace, without a process in between."""
        return ("nsenter", f"--net=/run/netns/{self.netns}")

    def cut(self, node: Node, what: str) -> None:
        """Drop, in both directions, every packet between the node and that part; LabUsage if there is none."""
        if what not in CUTS:
            raise LabUsage(f"cannot cut {what!r}: choose from {', '.join(CUTS)}")
        rules = [_rule(node, what, towards_node) for towards_node in (False, True)]
        table = f"table bridge cut_{node.name}_{what}"
        run(
            [*self.enter, "nft", "-f", "-"],
            stdin=f"{table} {{}}\ndelete {table}\n{table} {{\n"
            f"chain out {{ type filter hook prerouting priority -300; {rules[0]} }}\n"
            f"chain in {{ type filter hook postrouting priority 300; {rules[1]} }}\n}}\n",
        )

    def heal(self, node: Node) -> None:
        """Undo every cut of the node."""
        lines = [f"delete table bridge cut_{node.name}_{what}\n" for what in self.cuts().get(node.name, ())]
        run([*self.enter, "nft", "-f", "-"], stdin="".join(lines))

    def cuts(self) -> dict[str, list[str]]:
        """What is cut now, by the node's name."""
        answer = json.loads(run([*self.enter, "nft", "-j", "list", "tables"]))
        found: dict[str, list[str]] = {}
        for entry in answer["nftables"]:
            words = entry.get("table", {}).get("name", "").split("_")
            if len(words) == 3 and words[0] == "cut":
                found.setdefault(words[1], []).append(words[2])
        return found

    def destroy(self) -> None:
        """Kill every process in the namespace and remove it; nothing happens if it is gone."""
        if not self.exists():
            return
        deadline = time.monotonic() + 20.0
        while pids := run(["ip", "netns", "pids", self.netns]).split():
            if time.monotonic() > deadline:
                raise LabError(f"processes {', '.join(pids)} in {self.netns} do not die")
            for pid in pids:
                kill(int(pid))
            time.sleep(0.02)
        run(["ip", "netns", "delete", self.netns])


def _bridge_lines(network: Network) -> list[str]:
    """Lines for `ip -batch` that make the bridge and give it the addresses of what runs on the host."""
    hosts = ["1"]
    if network is MGMT:
        hosts += [address.rpartition(".")[2] for address in (*ETCD_ADDRESSES, MON_ADDRESS, *OSD_ADDRESSES)]
    name = network.name
    return [
        f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {name} addrgenmode none up",
        *(f"address add {network.v4}{host}/24 dev {name}" for host in hosts),
        *([f"address add {network.v6}1/64 dev {name} nodad"] if network.v6 else []),
    ]


def _rule(node: Node, what: str, towards_node: bool) -> str:
    """The rule of one direction; prerouting and postrouting see what is forwarded and what is the host's own."""
    if what in _FAR_SIDE:
        taps = [node.link(MGMT.name).tap]
    elif what == "all":
        taps = [link.tap for link in node.links if link.network in (MGMT, STORAGE_1, STORAGE_2)]
    else:
        taps = [node.link(what).tap]
    interfaces = f"{'oifname' if towards_node else 'iifname'} {{ {', '.join(taps)} }}"
    if what not in _FAR_SIDE:
        return f"{interfaces} drop;"
    return f"{interfaces} ip {'saddr' if towards_node else 'daddr'} {{ {', '.join(_FAR_SIDE[what])} }} drop;"
