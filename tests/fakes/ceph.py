"""Ceph as the operator's acts see it, in memory: images, a trash, copies of specs, and acts that fail on demand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from gateway.actions.ceph import Carried
from gateway.errors import AlreadyExists, NotFound, RbdgateError, Refused
from gateway.model import ImageName, ImageSpec, Instance
from gateway.schema import write_image


@dataclass
class FakeImage:
    """An RBD image; `obstacles` are what stands in the way of its adoption."""

    image_id: str
    size: int
    obstacles: tuple[str, ...] = ()
    open_at: str = ""


@dataclass
class FakeCeph:
    """One pool `rbd`; `fail` maps an act's name to the error it ends in before doing anything.

    `copies` and `texts` (those that nobody here wrote) are the copies of specs, `pr_info` the recorded reservations,
    by RBD's id.
    """

    images: dict[ImageName, FakeImage] = field(default_factory=dict)
    trash: dict[ImageName, FakeImage] = field(default_factory=dict)
    copies: dict[str, ImageSpec] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    pr_info: dict[str, bytes] = field(default_factory=dict)
    fenced: list[Instance] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)
    fail: dict[str, RbdgateError] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    made: int = 0

    def fsid(self) -> str:
        """The cluster's id."""
        self._begin("fsid")
        return "6f0d4f0a-0000-4000-8000-000000000000"

    def make_anchor(self, pool: str) -> None:
        """Make the anchor."""
        self._begin("make_anchor")
        self._check_pool(pool)
        self.anchors.append(pool)

    def make_image(self, name: ImageName, size: int) -> str:
        """Make an image."""
        self._begin("make_image")
        self._check_pool(name.pool)
        if name in self.images:
            raise AlreadyExists(f"creating image {name}: it exists already")
        self.made += 1
        self.images[name] = FakeImage(f"id{self.made}", size)
        return self.images[name].image_id

    def grow_image(self, spec: ImageSpec, size: int) -> None:
        """Grow an image."""
        self._begin("grow_image")
        found = self._image(spec.name)
        if found.image_id != spec.image_id:
            raise Refused(f"image {spec.name} is another one now")
        if found.size > size:
            raise Refused(f"image {spec.name} has {found.size} bytes in Ceph")
        found.size = size

    def examine(self, name: ImageName) -> tuple[str, int, tuple[str, ...]]:
        """Look at an image."""
        self._begin("examine")
        self._check_pool(name.pool)
        found = self._image(name)
        return found.image_id, found.size, found.obstacles

    def write_copy(self, spec: ImageSpec) -> None:
        """Keep the spec's copy."""
        self._begin("write_copy")
        if self._image(spec.name).image_id != spec.image_id:
            raise NotFound(f"image {spec.name} is gone")
        self.copies[spec.image_id] = spec

    def read_copy(self, name: ImageName) -> Carried:
        """Give the copy back in its stored form."""
        self._begin("read_copy")
        found = self._image(name)
        spec = self.copies.get(found.image_id)
        copy = self.texts.get(found.image_id, write_image(spec).decode() if spec else None)
        return Carried(found.image_id, found.size, copy, found.obstacles)

    def read_pr_info(self, spec: ImageSpec) -> bytes | None:
        """What is recorded."""
        self._begin("read_pr_info")
        self._image(spec.name)
        return self.pr_info.get(spec.image_id)

    def fence(self, spec: ImageSpec, victims: Collection[Instance]) -> None:
        """Fence the victims."""
        self._begin("fence")
        self.fenced.extend(victims)

    def move_to_trash(self, name: ImageName, image_id: str) -> None:
        """Move an image to the trash."""
        self._begin("move_to_trash")
        found = self._image(name)
        if found.image_id != image_id:
            raise Refused(f"image {name} is another one now")
        if found.open_at:
            raise Refused(f"image {name} is open at {found.open_at}")
        self.trash[name] = self.images.pop(name)

    def _begin(self, act: str) -> None:
        self.acts.append(act)
        if act in self.fail:
            raise self.fail[act]

    def _check_pool(self, pool: str) -> None:
        if pool != "rbd":
            raise NotFound(f"there is no pool {pool!r}; see `ceph osd pool ls`")

    def _image(self, name: ImageName) -> FakeImage:
        if name not in self.images:
            raise NotFound(f"image {name}: it does not exist")
        return self.images[name]
