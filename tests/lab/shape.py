"""What a lab was asked to be, kept in a file from the moment its making begins, and the lock around its changes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.layout import LabError, LabUsage, Node, Places, Role, nodes


@dataclass(frozen=True)
class Shape:
    """How many nodes of which kind, what they are made of, and whether the making ended well."""

    gateways: int
    initiators: int
    bare: bool
    tree: str = ""
    layer: str | None = None  # rbdgate, installed; none for a bare lab
    ready: bool = False

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, gateways first; LabUsage if there are more than the addresses allow."""
        try:
            return tuple(nodes(self.gateways, self.initiators))
        except ValueError as wrong:
            raise LabUsage(str(wrong)) from None

    def layers(self, node: Node) -> list[Path]:
        """What lies under the node's own disk, topmost first."""
        layer = [Path(self.layer)] if self.layer and node.role is Role.GATEWAY else []
        return [*layer, Path(self.tree)]

    def write(self, places: Places) -> None:
        """Remember the shape; a reader sees the old one or the new one."""
        draft = places.shape.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self)))
        draft.rename(places.shape)


def read_shape(places: Places) -> Shape:
    """The shape of an existing lab; LabUsage if there is none."""
    try:
        return Shape(**json.loads(places.shape.read_text()))
    except FileNotFoundError:
        raise LabUsage(f"there is no lab {places.name!r}: `tests/lab/lab up --name {places.name}` makes it") from None


@contextmanager
def changing(places: Places) -> Iterator[None]:
    """Only one process at a time makes or removes a lab; LabError if another one does so now."""
    places.run.mkdir(parents=True, exist_ok=True)
    directory = os.open(places.run, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise LabError(f"another command is making or removing lab {places.name!r} right now") from None
    finally:
        os.close(directory)
