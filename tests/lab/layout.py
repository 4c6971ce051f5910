"""Where everything of a lab is: its nodes' names, numbers and addresses, and its directories. Pure values.

Each lab has a network namespace of its own, so every lab uses the same addresses.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ETCD_ADDRESSES = ("10.77.0.11", "10.77.0.12", "10.77.0.13")
MON_ADDRESS = "10.77.0.20"
OSD_ADDRESSES = ("10.77.0.21", "10.77.0.22")
PORTAL_RANGES = {
    "storage-1": "10.77.1.0/24,10.77.1.100-10.77.1.199",
    "storage-2": "10.77.2.0/24,10.77.2.100-10.77.2.199",
    "six": "fd77:1::/64,fd77:1::100-fd77:1::1ff",  # on the interfaces of storage-1; the third choice for a path
}
CABLING = "cabling"  # the namespace inside a node that has the far ends of its storage interfaces
CACHE = Path("/var/cache/rbdgate-lab")
RUNS = Path("/run/rbdgate-lab")
DATA = Path("/var/tmp/rbdgate-lab")


class LabError(Exception):
    """What the lab was asked cannot be done; the text says why and what to do."""


class LabUsage(LabError):
    """The request itself is wrong, or this machine cannot run a lab."""


class Role(enum.Enum):
    """What a node is for; the value is the prefix of its name."""

    GATEWAY = "gw"
    INITIATOR = "ini"


@dataclass(frozen=True)
class Network:
    """One bridge of the lab; a node's address in it is the prefix and the node's own last number."""

    name: str
    v4: str
    v6: str | None = None
    bridged_inside: bool = False  # the node's interface is a veth, so that it can lose its carrier

    @property
    def cable(self) -> str:
        """The far end of a node's storage interface, which is taken down to take the carrier away."""
        return "cable-" + self.name.rpartition("-")[2]


CONTROL = Network("control", "10.77.9.")
MGMT = Network("mgmt", "10.77.0.")
STORAGE_1 = Network("storage-1", "10.77.1.", "fd77:1::", bridged_inside=True)
STORAGE_2 = Network("storage-2", "10.77.2.", "fd77:2::", bridged_inside=True)
NETWORKS = (CONTROL, MGMT, STORAGE_1, STORAGE_2)


@dataclass(frozen=True)
class Link:
    """A node's connection to one network: a tap on the host's side, `vec<index>` in the node."""

    network: Network
    index: int
    tap: str
    mac: str
    v4: str
    v6: str | None


@dataclass(frozen=True)
class Node:
    """One machine of the lab; numbers start at 1. ValueError for more than the addresses allow."""

    role: Role
    number: int

    def __post_init__(self) -> None:
        highest = 50 if self.role is Role.GATEWAY else 39
        if not 1 <= self.number <= highest:
            raise ValueError(f"{self.name}: numbers of {self.role.name.lower()}s go from 1 to {highest}")

    @property
    def name(self) -> str:
        """The node's host name, gw1 or ini1."""
        return f"{self.role.value}{self.number}"

    @property
    def links(self) -> tuple[Link, ...]:
        """The node's connections; only gateways reach etcd and Ceph."""
        networks = NETWORKS if self.role is Role.GATEWAY else (CONTROL, STORAGE_1, STORAGE_2)
        return tuple(self._link(index, network) for index, network in enumerate(networks))

    def link(self, network: str) -> Link:
        """The connection to that network; LabUsage if the node has none."""
        for link in self.links:
            if link.network.name == network:
                return link
        raise LabUsage(f"{self.name} has no network {network!r}: it has {', '.join(self.networks)}")

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks the node is on."""
        return tuple(link.network.name for link in self.links)

    @property
    def control(self) -> str:
        """The address `exec` uses, on the network that is never cut."""
        return self.link(CONTROL.name).v4

    def _link(self, index: int, network: Network) -> Link:
        last = self.number + (10 if self.role is Role.GATEWAY else 60)
        octet = last + 90 if network is MGMT else last
        return Link(
            network,
            index,
            f"{self.name}-{network.name}",
            f"02:77:{NETWORKS.index(network):02x}:00:00:{last:02x}",
            f"{network.v4}{octet}",
            f"{network.v6}{last}" if network.v6 else None,
        )


@dataclass(frozen=True)
class Places:
    """A lab's directories and its network namespace, all derived from its name; LabUsage for a bad name."""

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,19}", self.name):
            raise LabUsage(f"{self.name!r} is no name for a lab: 1 to 20 of a-z, 0-9 and -")

    @property
    def netns(self) -> str:
        """The lab's network namespace."""
        return f"rbdgate-{self.name}"

    @property
    def run(self) -> Path:
        """Pidfiles, sockets and what the lab is made of; short, for sockets' paths end at 107 bytes."""
        return RUNS / self.name

    @property
    def data(self) -> Path:
        """Keys, logs, disks of nodes, etcd and Ceph."""
        return DATA / self.name

    @property
    def shape(self) -> Path:
        """The file that says what the lab is made of."""
        return self.run / "shape.json"

    def home(self, node: Node) -> Path:
        """Everything of one node."""
        return self.data / node.name

    def console(self, node: Node) -> Path:
        """What the node's kernel and its journal said, over all boots."""
        return self.data / "log" / f"{node.name}.console"


def nodes(gateways: int, initiators: int) -> Iterator[Node]:
    """The nodes of a lab of that size, gateways first."""
    for role, count in ((Role.GATEWAY, gateways), (Role.INITIATOR, initiators)):
        for number in range(1, count + 1):
            yield Node(role, number)
