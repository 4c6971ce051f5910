"""Where each value lives under the cluster's prefix, and back from a key to what it is about. Pure.

settings                            the cluster's settings
images/<pool>/[<namespace>/]<name>  one image's spec
unique/iqn|naa|address|uid/<value>  who uses a value that must be unique: the image's name as text
nodes/<node>                        what an operator asked of a node
groups/<name>                       a group of initiators
initiators/<iqn>                    what an initiator proves itself with, its secrets sealed
discovery                           what discovery asks for, sealed as well
access                              written with each change of a group or of credentials
served/<address>                    a portal address that a gateway has served before
live/<node>      (leased)           the node's agent, with its client instances and networks
status/<node>    (leased)           the agent's report
claims/<uid>     (leased)           who holds an image; the create revision is the token
records/<uid>/<instance, quoted>    a client that may have the image open
moves/<uid>                         where an image is to be: an operator's wish, or its holder's
amendments/<uid>                    an operator's change of an image's recorded reservations, not made yet
fences/<instance, quoted>           a client that was decided to be fenced

The log of events lies beside the prefix, so that no turn reads it and no watch wakes for it: for `/rbdgate/default/`
under `/rbdgate/default.events/`:

next                                the number of the next event
slot/<number modulo the slots>      an event
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from gateway.errors import BadInput, BadSettings
from gateway.model import Address, ImageName, ImageSpec, Instance, Iqn, Label

DEFAULT_PREFIX = "/rbdgate/default/"

IMAGES, NODES, LIVE, STATUS = "images/", "nodes/", "live/", "status/"
CLAIMS, RECORDS, MOVES, FENCES, UNIQUE = "claims/", "records/", "moves/", "fences/", "unique/"
CONNECTIONS, GROUPS, SERVED = "connections/", "groups/", "served/"
INITIATORS, AMENDMENTS = "initiators/", "amendments/"
EVENTS = ".events"
"""What the name of the prefix of a cluster's events ends in."""


@dataclass(frozen=True)
class Keys:
    """All keys of one cluster; `prefix` starts and ends with a slash."""

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)+/", self.prefix):
            raise BadSettings(
                f"etcd prefix {self.prefix!r}: write it like {DEFAULT_PREFIX}, with a slash at both ends and letters,"
                " digits, '-', '_' and '.' between"
            )
        if f"{EVENTS}/" in self.prefix:
            raise BadSettings(
                f"etcd prefix {self.prefix!r}: a name that ends in {EVENTS} is where the events of another prefix are"
                " kept; choose another name"
            )

    @property
    def events(self) -> str:
        """The prefix of the log of events."""
        return f"{self.prefix.removesuffix('/')}{EVENTS}/"

    @property
    def event_counter(self) -> str:
        """The number of the next event."""
        return f"{self.events}next"

    @property
    def event_slots(self) -> str:
        """The prefix of all slots of the log."""
        return f"{self.events}slot/"

    def event_slot(self, slot: int) -> str:
        """One slot of the log."""
        return f"{self.event_slots}{slot:04}"

    @property
    def settings(self) -> str:
        """The cluster's settings."""
        return f"{self.prefix}settings"

    def folder(self, name: str) -> str:
        """The prefix of one kind, such as `IMAGES`."""
        return self.prefix + name

    def image(self, name: ImageName) -> str:
        """An image's spec."""
        return f"{self.prefix}{IMAGES}{name}"

    def node(self, node: Label) -> str:
        """A node's administrative state."""
        return f"{self.prefix}{NODES}{node}"

    def live(self, node: Label) -> str:
        """A node's sign of life."""
        return f"{self.prefix}{LIVE}{node}"

    def status(self, node: Label) -> str:
        """A node's report."""
        return f"{self.prefix}{STATUS}{node}"

    def claim(self, uid: str) -> str:
        """Who holds an image."""
        return f"{self.prefix}{CLAIMS}{uid}"

    def records(self, uid: str) -> str:
        """The prefix of an image's holder records."""
        return f"{self.prefix}{RECORDS}{uid}/"

    def record(self, uid: str, instance: Instance) -> str:
        """One holder record."""
        return self.records(uid) + quote(str(instance), safe="")

    def group(self, name: Label) -> str:
        """A group of initiators."""
        return f"{self.prefix}{GROUPS}{name}"

    def initiator(self, iqn: Iqn) -> str:
        """What an initiator proves itself with."""
        return f"{self.prefix}{INITIATORS}{iqn}"

    @property
    def discovery(self) -> str:
        """What discovery asks for."""
        return f"{self.prefix}discovery"

    @property
    def access(self) -> str:
        """Its mod revision is where groups or credentials were last changed; it says nothing else."""
        return f"{self.prefix}access"

    def served(self, address: Address) -> str:
        """That a portal address was served before."""
        return f"{self.prefix}{SERVED}{address}"

    def move(self, uid: str) -> str:
        """Where an image is to be."""
        return f"{self.prefix}{MOVES}{uid}"

    def amendment(self, uid: str) -> str:
        """What is to be changed of an image's recorded reservations."""
        return f"{self.prefix}{AMENDMENTS}{uid}"

    def connections(self, uid: str) -> str:
        """The initiators' connections to an image's last holder; without a lease, for it must outlive that holder."""
        return f"{self.prefix}{CONNECTIONS}{uid}"

    def fence(self, instance: Instance) -> str:
        """A fence intent."""
        return f"{self.prefix}{FENCES}{quote(str(instance), safe='')}"

    def unique_iqn(self, iqn: Iqn) -> str:
        """Which image has this target name."""
        return f"{self.prefix}{UNIQUE}iqn/{iqn}"

    def unique_naa(self, naa: str) -> str:
        """Which image has this NAA part of its serial."""
        return f"{self.prefix}{UNIQUE}naa/{naa}"

    def unique_address(self, address: Address) -> str:
        """Which image has this portal address."""
        return f"{self.prefix}{UNIQUE}address/{address}"

    def unique_uid(self, uid: str) -> str:
        """Which image has this uid."""
        return f"{self.prefix}{UNIQUE}uid/{uid}"

    def unique(self, spec: ImageSpec) -> dict[str, str]:
        """Every key that keeps a value of this image unique, with that value in words."""
        identity = spec.identity
        return {
            self.unique_uid(spec.uid): f"uid {spec.uid}",
            self.unique_iqn(identity.iqn): f"IQN {identity.iqn}",
            self.unique_naa(identity.naa): f"serial {identity.serial} (by its first 25 hex digits, {identity.naa})",
        } | {self.unique_address(path.address): f"address {path.address}" for path in spec.paths}


def instance_of(part: str) -> Instance:
    """The client instance a quoted part of a key names; BadInput if none."""
    return Instance(unquote(part))


def uid_of(part: str) -> str:
    """The uid a part of a key is; BadInput if it is none."""
    if not re.fullmatch(r"[0-9a-f]{16}", part):
        raise BadInput(f"{part!r} is no image's uid")
    return part
