"""One function a command: from parsed arguments to one act, and from its result to what is printed."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gateway.actions import cluster, images, initiators
from gateway.actions.ceph import Ceph
from gateway.actions.choosing import IdentityWish
from gateway.actions.images import Wish
from gateway.actions.looking import look
from gateway.actions.waiting import Patience
from gateway.cli import output
from gateway.model import ClusterSettings, ImageName
from gateway.report import ImageStatus
from gateway.store.cluster import ClusterStore


@dataclass(frozen=True)
class Session:
    """What a command works with; `warn` takes a sentence for standard error."""

    store: ClusterStore
    ceph: Ceph
    patience: Patience
    warn: Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What a command has to say: to people, and to scripts."""

    text: str
    document: Any


def cluster_init(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate cluster init`."""
    settings = cluster.initialise(
        session.store,
        session.ceph,
        networks=tuple(arguments.network),
        anchor_pool=arguments.anchor_pool,
        iqn_prefix=arguments.iqn_prefix,
    )
    return _settings_answer(settings, session.store.keys.prefix)


def cluster_show(session: Session, _: argparse.Namespace) -> Answer:
    """`rbdgate cluster show`."""
    return _settings_answer(session.store.view().settings, session.store.keys.prefix)


def image_create(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate image create`."""
    wish = _wish(arguments, IdentityWish())
    images.create(session.store, session.ceph, arguments.image, arguments.size, wish, random=uuid.uuid4)
    return _served(session, arguments)


def image_adopt(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate image adopt`."""
    wanted = IdentityWish(arguments.iqn, arguments.serial, arguments.vendor, arguments.product)
    wish = _wish(arguments, wanted)
    images.adopt(session.store, session.ceph, arguments.image, wish, tagged=dict(arguments.path), random=uuid.uuid4)
    return _served(session, arguments)


def image_list(session: Session, _: argparse.Namespace) -> Answer:
    """`rbdgate image list`."""
    found = look(session.store).images
    return Answer(output.image_table(found), [image.as_dict() for image in found])


def image_show(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate image show`."""
    return _image_answer(look(session.store).image(arguments.image))


def image_delete(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate image delete`; nobody else finishes it, so without waiting it may have to be run again."""
    name: ImageName = arguments.image
    patience = session.patience
    images.delete(session.store, session.ceph, name, patience, keep=arguments.keep)
    where = "kept as it is" if arguments.keep else "in the trash of its pool (`rbd trash list`, `rbd trash restore`)"
    return Answer(
        f"image {name} is not served any more; its data is {where}", {"name": str(name), "kept": arguments.keep}
    )


def image_move(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate image move`."""
    to = images.request_move(session.store, arguments.image, arguments.to)
    if arguments.wait:
        return _image_answer(images.await_serving(session.store, arguments.image, session.patience, by=to))
    return _image_answer(look(session.store).image(arguments.image))


def initiator_allow(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate initiator allow`."""
    return _access_answer(session, arguments, initiators.allow)


def initiator_deny(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate initiator deny`."""
    return _access_answer(session, arguments, initiators.deny)


def initiator_list(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate initiator list`."""
    allowed = [str(iqn) for iqn in initiators.listed(session.store, arguments.image)]
    return Answer("\n".join(allowed), allowed)


def node_list(session: Session, _: argparse.Namespace) -> Answer:
    """`rbdgate node list`."""
    found = look(session.store).nodes
    return Answer(output.node_table(found), [node.as_dict() for node in found])


def node_show(session: Session, arguments: argparse.Namespace) -> Answer:
    """`rbdgate node show`."""
    node = look(session.store).node(arguments.node)
    return Answer(output.node_text(node), node.as_dict())


def status(session: Session, _: argparse.Namespace) -> Answer:
    """`rbdgate status`."""
    found = look(session.store)
    text = output.node_table(found.nodes) + "\n\n" + output.image_table(found.images)
    return Answer(text, found.as_dict())


COMMANDS: Mapping[str, Callable[[Session, argparse.Namespace], Answer]] = {
    act.__name__: act
    for act in (
        cluster_init,
        cluster_show,
        image_create,
        image_adopt,
        image_list,
        image_show,
        image_delete,
        image_move,
        initiator_allow,
        initiator_deny,
        initiator_list,
        node_list,
        node_show,
        status,
    )
}


def _wish(arguments: argparse.Namespace, identity: IdentityWish) -> Wish:
    addresses = tuple(arguments.address)
    paths = arguments.paths if arguments.paths is not None else len(addresses) or 2
    return Wish(paths, addresses, identity)


def _served(session: Session, arguments: argparse.Namespace) -> Answer:
    if arguments.wait:
        return _image_answer(images.await_serving(session.store, arguments.image, session.patience))
    return _image_answer(look(session.store).image(arguments.image))


def _image_answer(image: ImageStatus) -> Answer:
    return Answer(output.image_text(image), image.as_dict())


def _access_answer(
    session: Session,
    arguments: argparse.Namespace,
    act: Callable[[ClusterStore, Ceph, ImageName, Any], initiators.Changed],
) -> Answer:
    changed = act(session.store, session.ceph, arguments.image, arguments.iqn)
    if changed.warning:
        session.warn(changed.warning)
    if arguments.wait:
        initiators.await_applied(session.store, changed, session.patience)
    allowed = [str(iqn) for iqn in changed.spec.initiators]
    text = f"image {arguments.image} may be used by: " + (", ".join(allowed) or "nobody")
    return Answer(text, {"image": str(arguments.image), "initiators": allowed})


def _settings_answer(settings: ClusterSettings, prefix: str) -> Answer:
    networks = [{key: str(value) for key, value in asdict(network).items()} for network in settings.networks]
    for network, shown in zip(settings.networks, networks, strict=True):
        shown["name"] = str(network.name)
    document = {
        "prefix": prefix,
        "fsid": settings.fsid,
        "networks": networks,
        "anchor_pool": settings.anchor_pool,
        "iqn_prefix": settings.iqn_prefix,
    }
    rows = [(n["name"], n["cidr"], f"{n['first']}-{n['last']}") for n in networks]
    facts = "\n".join(f"{key.ljust(11)}  {value}" for key, value in document.items() if key != "networks")
    return Answer(facts + "\n\n" + output.table(("NETWORK", "CIDR", "PORTALS"), rows), document)
