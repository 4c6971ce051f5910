"""RADOS as fences see it: OSDs that act on the newest map they have *seen*, clients with maps of their own, headers.

`FakeConnection` stands where `CephConnection` does, under the real `CephStorage`, `fence` and header swaps; librbd's
part (`describe_image`, `header_of`, `break_locks`) is put in its place by `on_fakes`. Each image has three objects on
OSDs of their own: its header, the data object that a fence touches, and another one. What makes fencing hard is
modelled on purpose, and on the bad side: an entry of the blocklist is no news to an OSD until an operation of a client
with that map, or time, brings it there; a client learns of a new map only where the real one must.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from gateway import storage
from gateway.errors import Blocklisted, Conflict, NotFound, Refused
from gateway.images.header import HeaderState
from gateway.images.holder import Holder
from gateway.images.image import CREATE_FEATURES, ImageFacts
from gateway.model import Amendment, AmendmentKind, ImageName, ImageSpec, Instance
from gateway.reservations.amending import amended

EXPIRY = "2099-01-01T00:00:00.000000+0000"


@dataclass
class FakeObject:
    """An object with the OSD it is on: `epoch` is the newest map that OSD has seen."""

    epoch: int = 1


@dataclass
class FakeImage:
    """An image: its header with who watches it and has its lock, and one block of data."""

    name: ImageName
    image_id: str
    size: int
    header: FakeObject = field(default_factory=FakeObject)
    first: FakeObject = field(default_factory=FakeObject)
    """The data object that a fence touches."""
    data: FakeObject = field(default_factory=FakeObject)
    """The one that `block` lies in: no fence touches it."""
    holder: Holder | None = None
    pr_info: bytes | None = None
    version: int = 1
    watchers: set[Instance] = field(default_factory=set)
    locks: set[Instance] = field(default_factory=set)
    exclusive: bool = True
    """Whether it has the feature exclusive-lock; an image that was adopted need not."""
    block: int = 0


class FakeRados:
    """The cluster. `on_fence` hears of each new entry and who asked for it (None: a kernel, by itself)."""

    def __init__(self) -> None:
        self.images: dict[ImageName, FakeImage] = {}
        self.listed: dict[Instance, int] = {}
        """The blocklist, with the map's epoch each entry came with."""
        self.epoch = 1
        self.directory = FakeObject()
        """The object that names the anchor."""
        self.maps: dict[Instance, int] = {}
        """The newest map each client has."""
        self.on_fence: Callable[[Instance, Instance | None], None] = lambda _victim, _by: None
        self.answers: Callable[[Instance], bool] = lambda _client: True
        """Whether a client that watches answers who asks it for a lock."""
        self.on_change: Callable[[], None] = lambda: None
        """Hears of whatever matters to fences."""
        self.deaf = False
        """An OSD that answers no unmap: watch and lock stay behind."""

    def add_image(self, name: ImageName, image_id: str, size: int, *, exclusive: bool = True) -> None:
        """Make an image."""
        self.images[name] = FakeImage(name, image_id, size, exclusive=exclusive)

    def image_of(self, image_id: str) -> FakeImage:
        """The image with that id."""
        return next(image for image in self.images.values() if image.image_id == image_id)

    def connect(self, client: Instance) -> None:
        """A client that begins has the newest map."""
        self.maps[client] = self.epoch

    def operate(self, client: Instance, at: FakeObject) -> None:
        """One operation: the OSD takes up the client's map if it is newer, and refuses whom its map names."""
        known = self.maps.get(client, 1)
        if known > at.epoch:
            at.epoch = known
            self.on_change()
        if self.fenced(client, at):
            raise Blocklisted(f"{client} is on the blocklist")

    def fenced(self, client: Instance, at: FakeObject) -> bool:
        """Whether that OSD refuses the client by now."""
        since = self.listed.get(client)
        return since is not None and since <= at.epoch

    def blocklist(self, victim: Instance, by: Instance | None) -> None:
        """Add an entry, with a new map; one that is there stays as it is."""
        self.on_fence(victim, by)
        if victim not in self.listed:
            self.epoch += 1
            self.listed[victim] = self.epoch
            self.on_change()

    def lift(self) -> None:
        """Every entry of the blocklist is gone, as by somebody's hand; each OSD acts on that at once."""
        self.listed.clear()
        self.epoch += 1
        self.news()

    def news(self) -> None:
        """Let every OSD have the newest map."""
        self.on_change()
        self.directory.epoch = self.epoch
        for image in self.images.values():
            image.header.epoch = image.first.epoch = image.data.epoch = self.epoch

    def opened(self, uid: str, client: Instance) -> None:
        """A map on a client that exists: it waits for the newest map, then takes watch and lock."""
        image = self.image_of(uid)
        self.maps[client] = self.epoch
        self.operate(client, image.header)
        image.watchers.add(client)
        if image.exclusive:
            for owner in image.locks - {client}:
                self._ask_for_lock(image, owner, client)
            image.locks = {client}

    def _ask_for_lock(self, image: FakeImage, owner: Instance, client: Instance) -> None:
        """What the kernel does (seen): who watches is asked, and waited for; who does not is blocklisted."""
        if owner in image.watchers and not self.fenced(owner, image.header):
            if not self.answers(owner):
                raise Refused("another client has the image's lock and does not let go of it")
        else:
            self.blocklist(owner, None)
            self.maps[client] = self.epoch

    def forgot(self, spec: ImageSpec, nexuses: Iterable[str]) -> None:
        """What a guard records of initiators that have no ACL."""
        image = self.image_of(spec.image_id)
        image.pr_info = amended(image.pr_info, Amendment(AmendmentKind.FORGET, "nobody", "", tuple(nexuses)))

    def closed(self, uid: str, client: Instance) -> None:
        """An unmap: watch and lock go, if the OSD answers that client."""
        image = self.image_of(uid)
        if not self.deaf and not self.fenced(client, image.header):
            image.watchers.discard(client)
            image.locks.discard(client)


class FakeConnection:
    """A client; `calling` is asked before and after each operation, and may raise as a Ceph that does not answer."""

    def __init__(self, rados: FakeRados, client: Instance, calling: Callable[[str], None] = lambda _what: None) -> None:
        self.rados, self.instance, self.calling = rados, client, calling
        self.user, self.op_timeout = "rbdgate", 10.0
        rados.connect(client)

    def mon_addresses(self) -> None:
        """Nobody logs in with these."""

    @contextmanager
    def pool(self, pool: str, namespace: str = "") -> Iterator[_Objects]:
        """A context on a pool: as much of it as a fence uses."""
        yield _Objects(self)

    def command(self, prefix: str, **words: Any) -> str:
        """The monitors' part of a fence."""
        self.calling(prefix if prefix != "osd blocklist" else f"blocklist {words['addr']}")
        if prefix == "osd blocklist":
            self.rados.blocklist(Instance(words["addr"]), self.instance)
            self.calling("blocklisted")
            return ""
        if prefix == "osd blocklist ls":
            return json.dumps([{"addr": str(entry), "until": EXPIRY} for entry in sorted(self.rados.listed)])
        if prefix == "osd stat":
            return json.dumps({"epoch": self.rados.epoch})
        raise Refused(f"the fake knows no command {prefix}")

    def await_newest_map(self) -> None:
        """Have the newest map."""
        self.calling("await the newest map")
        self.rados.maps[self.instance] = self.rados.epoch

    def image(self, name: ImageName) -> FakeImage:
        """The image of that name."""
        if name not in self.rados.images:
            raise NotFound(f"image {name}: it does not exist")
        return self.rados.images[name]

    def describe(self, name: ImageName) -> ImageFacts:
        """`describe_image`."""
        self.calling(f"describe {name}")
        image = self.image(name)
        self.rados.operate(self.instance, image.header)
        if self.rados.epoch == image.header.epoch:  # an OSD ends the watch of whom its map names
            image.watchers -= {w for w in image.watchers if self.rados.fenced(w, image.header)}
        facts = ImageFacts(
            name=name,
            image_id=image.image_id,
            size=image.size,
            features=CREATE_FEATURES,
            data_pool=name.pool,
            watchers=frozenset(image.watchers),
            lock_owners=frozenset(image.locks),
            mirrored_from_elsewhere=False,
        )
        self.calling(f"described {name}")
        return facts

    def break_locks(self, name: ImageName, fenced: Collection[Instance]) -> None:
        """`break_locks`."""
        self.calling(f"break locks of {name}")
        image = self.image(name)
        self.rados.operate(self.instance, image.header)
        image.locks -= set(fenced)

    def header(self, name: ImageName, image_id: str) -> FakeHeader:
        """`header_of`."""
        return FakeHeader(self, self.rados.image_of(image_id))


class _Objects:
    def __init__(self, connection: FakeConnection) -> None:
        self._connection = connection

    def stat(self, name: str) -> None:
        """Touch an object: its OSD has this client's map afterwards."""
        kind, image_id, *_ = name.removeprefix("rbd_").split(".")
        if kind == "id":
            self._connection.calling(f"read {name}")
            self._connection.rados.operate(self._connection.instance, self._connection.rados.directory)
            return
        image = self._connection.rados.image_of(image_id)
        self._connection.calling(f"touch {kind} of {image.name}")
        self._connection.rados.operate(self._connection.instance, image.header if kind == "header" else image.first)


class FakeHeader:
    """As `ImageHeader`: the real swaps run on its two methods."""

    def __init__(self, connection: FakeConnection, image: FakeImage) -> None:
        self._connection, self._image = connection, image

    def __str__(self) -> str:
        return f"rbd_header.{self._image.image_id}"

    def read(self) -> HeaderState:
        """Both xattrs and their version."""
        self._connection.calling(f"read header of {self._image.name}")
        self._connection.rados.operate(self._connection.instance, self._image.header)
        return HeaderState(self._image.holder, self._image.pr_info, self._image.version)

    def swap(self, seen: HeaderState, *, holder: Holder, pr_info: bytes | None) -> None:
        """Write both if the version is still that one."""
        self._connection.calling(f"swap header of {self._image.name}")
        self._connection.rados.operate(self._connection.instance, self._image.header)
        if self._image.version != seen.version:
            raise Conflict(f"{self} changed since it was read")
        self._image.holder, self._image.version = holder, self._image.version + 1
        self._connection.rados.on_change()
        if pr_info is not None:
            self._image.pr_info = pr_info
        self._connection.calling(f"swapped header of {self._image.name}")


@contextmanager
def on_fakes() -> Iterator[None]:
    """Let the real `CephStorage` find the fakes where it looks for librbd."""
    with mock.patch.multiple(
        storage,
        describe_image=lambda connection, name: connection.describe(name),
        header_of=lambda connection, name, image_id: connection.header(name, image_id),
        break_locks=lambda connection, name, owners: connection.break_locks(name, owners),
    ):
        yield
