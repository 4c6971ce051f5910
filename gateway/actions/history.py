"""What happened: the log of events, about one image or node, since some time, the newest last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.errors import NotFound, RbdgateError
from gateway.events import Event
from gateway.model import ImageName, Label
from gateway.store.cluster import ClusterStore


@dataclass(frozen=True)
class History:
    """Events, how many entries of the log could not be read, and the revision up to which it was read.

    `all` is the whole log, for what else happened meanwhile.
    """

    events: tuple[Event, ...]
    damaged: int
    revision: int
    all: tuple[Event, ...] = ()


def history(store: ClusterStore, about: ImageName | Label | None, since: datetime | None, after: int = 0) -> History:
    """The events about an image or a node (None: about anything), written since a time and after a revision.

    An event whose time cannot be read counts as recent. NotFound for a name that neither the cluster nor the log knows.
    """
    uid = _uid_of(store, about) if isinstance(about, ImageName) else None
    log = store.events().read()
    new = (event for event in log.events if event.revision > after)
    found = tuple(event for event in new if _is_about(event, about, uid) and _is_since(event, since))
    if not any(_is_about(event, about, uid) for event in log.events) and not _is_known(store, about):
        kind = "image" if isinstance(about, ImageName) else "node"
        raise NotFound(
            f"there is no {kind} {about} in this cluster, and the log of events knows none; see `rbdgate {kind} list`"
        )
    return History(found, log.damaged, log.events[-1].revision if log.events else 0, log.events)


def _is_known(store: ClusterStore, about: ImageName | Label | None) -> bool:
    view = store.view()
    if isinstance(about, ImageName):
        return about in view.images or str(about) in view.broken
    return about is None or about in view.nodes


def _is_about(event: Event, about: ImageName | Label | None, uid: str | None) -> bool:
    if isinstance(about, ImageName):
        return event.concerns_image(about, uid)
    return about is None or event.concerns_node(about)


def _is_since(event: Event, since: datetime | None) -> bool:
    try:
        return since is None or datetime.fromisoformat(event.time) >= since
    except (ValueError, TypeError):  # no time, or one without a zone
        return True


def _uid_of(store: ClusterStore, name: ImageName) -> str | None:
    """The uid of the image of that name now, if there is one that can be read: its events may bear a former name."""
    try:
        return store.image(name)[0].uid
    except RbdgateError:
        return None
