"""`rbdgate image`: make, adopt, place, stop, grow and delete images."""

from __future__ import annotations

import argparse
import uuid

from gateway.actions import balancing, images, placing, reservations, resizing, restoring
from gateway.actions.changing import Changed, await_applied
from gateway.actions.choosing import IdentityWish
from gateway.actions.images import Wish
from gateway.actions.looking import look
from gateway.actions.reserving import ReservingWish, set_reserving
from gateway.actions.waiting import Patience
from gateway.cli import output, reservation
from gateway.cli.completing import Kind
from gateway.cli.parsers import MINUTE, Commands, completed, image_argument, leaf, node_argument, nodes_argument, typed
from gateway.cli.session import Answer, Session
from gateway.cli.values import parse_count, parse_named_address, parse_size, parse_tagged_address
from gateway.errors import RbdgateError
from gateway.model import ImageName, Iqn, Label
from gateway.placement import why_not
from gateway.report import ImageStatus

_DELETE = """Stops serving an image and forgets it. The RBD image is moved to the trash, whole: `rbd trash list
POOL` and `rbd trash restore POOL/ID` bring it back. No data is destroyed by this command. One that was
cut short, or that gave up waiting, is finished by running it again with the same options."""

_RESTORE = """Serves an image again after etcd was wiped or restored from a backup without it: with its target name,
serial, addresses and initiators, as they are kept in the image itself. Groups' members and CHAP credentials are not."""

_STOP = """Has its holder let an image go, and no other node take it: its initiators' sessions end. Its data, its
name, serial and addresses stay, and `image start` serves it again."""

_SET = """Changes what an image does about SCSI-3 persistent reservations. Its holder exports it anew for that, which
initiators feel as a planned move. Reservations are not turned off while somebody is registered."""

_RESIZE = """Makes an image larger while it is served; it is never made smaller. Initiators see the new size after a
rescan (`iscsiadm -m session -R`), without a new login. One that was cut short is finished by running it again."""


def add(commands: Commands) -> None:
    """The group's commands."""
    create = leaf(commands, "create", _create, "make an RBD image and serve it", waits=MINUTE, check=_wrong_paths)
    image_argument(create)
    create.add_argument("--size", required=True, type=typed(parse_size), help="bytes, or like 10G, 1.5T")
    _path_arguments(create)
    adopt = leaf(
        commands, "adopt", _adopt, "serve an RBD image that is there, as it is", waits=MINUTE, check=_wrong_paths
    )
    image_argument(adopt)
    _path_arguments(adopt)
    _identity_arguments(adopt)
    purpose = "serve an image that etcd has lost, by the copy of its spec that it carries"
    image_argument(leaf(commands, "restore", _restore, purpose, waits=MINUTE, description=_RESTORE))
    leaf(commands, "list", _list, "every image")
    image_argument(leaf(commands, "show", _show, "one image with its paths"))
    purpose = "stop serving an image; its data goes to RBD's trash"
    delete = leaf(commands, "delete", _delete, purpose, waits=MINUTE, description=_DELETE)
    image_argument(delete)
    delete.add_argument("--keep", action="store_true", help="leave the RBD image where it is")
    move = leaf(commands, "move", _move, "have another node serve an image", waits=MINUTE)
    image_argument(move)
    to = move.add_argument("--to", type=typed(Label), metavar="NODE", help="default: the best other node")
    completed(to, Kind.NODE)
    _add_placing(commands)
    purpose = "have an image keep persistent reservations, or not, and how"
    reserving = leaf(commands, "set", _set, purpose, waits=MINUTE, description=_SET, check=_nothing_set)
    image_argument(reserving)
    words = ("on", "off")
    reserving.add_argument("--reservations", choices=words, help="off: every PERSISTENT RESERVE is refused")
    reserving.add_argument(
        "--enforce-isids",
        choices=words,
        help="off: whenever it moves, its registrants become known by their names",
    )
    purpose = "have no node serve an image, until `image start`"
    image_argument(leaf(commands, "stop", _stop, purpose, waits=MINUTE, description=_STOP))
    image_argument(leaf(commands, "start", _start, "have a stopped image served again", waits=MINUTE))
    resize = leaf(commands, "resize", _resize, "make an image larger", waits=MINUTE, description=_RESIZE)
    image_argument(resize)
    resize.add_argument("--size", required=True, type=typed(parse_size), help="bytes, or like 10G, 1.5T")


def _add_placing(commands: Commands) -> None:
    pin = leaf(commands, "pin", _pin, "keep an image at a node while that one can serve it", waits=MINUTE)
    image_argument(pin)
    node_argument(pin)
    image_argument(leaf(commands, "unpin", _unpin, "let placement decide where an image is"))
    keep_away = leaf(commands, "keep-away", _keep_away, "name the nodes that never serve an image", waits=MINUTE)
    keep_away.set_defaults(check=_wrong_nodes)
    image_argument(keep_away)
    nodes_argument(keep_away)
    keep_away.add_argument("--clear", action="store_true", help="no node is kept away from any more")
    rebalance = leaf(commands, "rebalance", _rebalance, "spread the images evenly now", waits=300)
    rebalance.add_argument("--dry-run", action="store_true", help="only tell which images would move, and why")


def _path_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--paths", type=typed(parse_count), metavar="N", help="how many portal addresses; default: 2")
    address = command.add_argument(
        "--address",
        action="append",
        default=[],
        type=typed(parse_named_address),
        metavar="NETWORK=IP",
        help="a portal address; those not named are chosen from the networks in turn",
    )
    completed(address, Kind.NETWORK, ending="=")


def _identity_arguments(adopt: argparse.ArgumentParser) -> None:
    adopt.add_argument("--iqn", type=typed(Iqn), help="the target name it had elsewhere")
    adopt.add_argument("--serial", help="the unit serial it had elsewhere")
    adopt.add_argument("--vendor", help="the INQUIRY vendor it had elsewhere")
    adopt.add_argument("--product", help="the INQUIRY product it had elsewhere")
    adopt.add_argument(
        "--path",
        action="append",
        default=[],
        type=typed(parse_tagged_address),
        metavar="TAG=ADDRESS",
        help="a path it had elsewhere; all of them, with tags 1 to N",
    )


def _wrong_nodes(found: argparse.Namespace) -> str | None:
    if found.clear and found.nodes:
        return "--clear names no node"
    return None if found.clear or found.nodes else "name the nodes, or --clear"


def _nothing_set(found: argparse.Namespace) -> str | None:
    unsaid = found.reservations is None and found.enforce_isids is None
    return "say what to set: --reservations or --enforce-isids" if unsaid else None


def _wrong_paths(found: argparse.Namespace) -> str | None:
    tagged = getattr(found, "path", [])
    if tagged and (found.address or found.paths is not None):
        return "--path names all paths with their tags; leave --address and --paths out"
    if len(dict(tagged)) != len(tagged):
        return "--path: a tag is named twice; each path has its own"
    addresses = [address for _, address in found.address]
    if len(set(addresses)) != len(addresses):
        return "--address: an address is named twice; each path has its own"
    if addresses and found.paths is not None and found.paths < len(addresses):
        return f"--paths {found.paths}: {len(addresses)} addresses are named; ask for as many paths, or more"
    return None


def _create(session: Session, arguments: argparse.Namespace) -> Answer:
    wish = _wish(arguments, IdentityWish())
    images.create(session.store, session.ceph, arguments.image, arguments.size, wish, random=uuid.uuid4)
    return _served(session, arguments)


def _adopt(session: Session, arguments: argparse.Namespace) -> Answer:
    wanted = IdentityWish(arguments.iqn, arguments.serial, arguments.vendor, arguments.product)
    wish = _wish(arguments, wanted)
    spec = images.adopt(
        session.store, session.ceph, arguments.image, wish, tagged=dict(arguments.path), random=uuid.uuid4
    )
    try:
        table = reservations.carried(session.ceph, spec)
    except RbdgateError as error:
        session.warn(f"whether the image has reservations of before is not known: {error}")
        return _served(session, arguments)
    if table.damaged:  # waiting for it to be served would be in vain
        session.warn(f"the image's reservations of before cannot be read, and it is not exported: {table.damaged}")
        session.warn(table.way_out)
    served = _answer(look(session.store).image(arguments.image)) if table.damaged else _served(session, arguments)
    document = served.document | {"reservations": reservation.carried_document(table)}
    return Answer("\n\n".join(filter(None, (served.text, reservation.carried_text(table)))), document)


def _restore(session: Session, arguments: argparse.Namespace) -> Answer:
    restoring.restore(session.store, session.ceph, arguments.image)
    return _served(session, arguments)


def _list(session: Session, _: argparse.Namespace) -> Answer:
    found = look(session.store).images
    return Answer(output.image_table(found), [image.as_dict() for image in found])


def _show(session: Session, arguments: argparse.Namespace) -> Answer:
    return _answer(look(session.store).image(arguments.image))


def _delete(session: Session, arguments: argparse.Namespace) -> Answer:
    """Nobody else finishes it, so without waiting it may have to be run again."""
    name: ImageName = arguments.image
    images.delete(session.store, session.ceph, name, session.patience, keep=arguments.keep)
    where = "kept as it is" if arguments.keep else "in the trash of its pool (`rbd trash list`, `rbd trash restore`)"
    return Answer(
        f"image {name} is not served any more; its data is {where}", {"name": str(name), "kept": arguments.keep}
    )


def _move(session: Session, arguments: argparse.Namespace) -> Answer:
    if arguments.wait and arguments.to is not None:
        kept = session.patience
        before = Patience(kept.timeout, kept.progress, kept.clock, kept.sleep)  # nothing is accepted, or recorded, yet
        images.await_fit(session.store, arguments.image, arguments.to, before)
    to = images.request_move(session.store, arguments.image, arguments.to)
    if arguments.wait:
        return _answer(images.await_serving(session.store, arguments.image, session.patience, by=to))
    return _answer(look(session.store).image(arguments.image))


def _pin(session: Session, arguments: argparse.Namespace) -> Answer:
    changed = _told(session, placing.pin(session.store, session.ceph, arguments.image, arguments.node))
    view = session.store.view()
    if arguments.wait and why_not(view, changed.spec, arguments.node) is None and not changed.spec.stopped:
        return _answer(images.await_serving(session.store, arguments.image, session.patience, by=arguments.node))
    return _show(session, arguments)


def _unpin(session: Session, arguments: argparse.Namespace) -> Answer:
    _told(session, placing.unpin(session.store, session.ceph, arguments.image))
    return _show(session, arguments)


def _keep_away(session: Session, arguments: argparse.Namespace) -> Answer:
    changed = _told(session, placing.keep_away(session.store, session.ceph, arguments.image, tuple(arguments.nodes)))
    if arguments.wait and not changed.spec.stopped:
        placing.await_away(session.store, changed.spec, session.patience)
        return _served(session, arguments)
    return _show(session, arguments)


def _rebalance(session: Session, arguments: argparse.Namespace) -> Answer:
    if arguments.dry_run:
        moves = balancing.moves(session.store)
    else:
        moves = balancing.rebalance(session.store, session.patience)
    rows = [(move.image, str(move.source), str(move.target), move.reason) for move in moves]
    headings = ("image", "from", "to", "reason")
    text = output.table([word.upper() for word in headings], rows) if rows else "the images are spread evenly"
    return Answer(text, [dict(zip(headings, row, strict=True)) for row in rows])


def _stop(session: Session, arguments: argparse.Namespace) -> Answer:
    changed = _told(session, placing.stop(session.store, session.ceph, arguments.image))
    if arguments.wait:
        placing.await_released(session.store, changed.spec, session.patience)
    return _show(session, arguments)


def _start(session: Session, arguments: argparse.Namespace) -> Answer:
    _told(session, placing.start(session.store, session.ceph, arguments.image))
    return _served(session, arguments)


def _set(session: Session, arguments: argparse.Namespace) -> Answer:
    on = {"on": 1, "off": 0, None: None}
    wish = ReservingWish(on[arguments.reservations], on[arguments.enforce_isids])
    changed = _told(session, set_reserving(session.store, session.ceph, arguments.image, wish))
    if arguments.wait and not changed.spec.stopped:
        await_applied(session.store, changed, session.patience)
        return _served(session, arguments)
    return _show(session, arguments)


def _resize(session: Session, arguments: argparse.Namespace) -> Answer:
    changed = _told(session, resizing.grow(session.store, session.ceph, arguments.image, arguments.size))
    if arguments.wait:
        await_applied(session.store, changed, session.patience)
    return _show(session, arguments)


def _told(session: Session, changed: Changed) -> Changed:
    if changed.warning:
        session.warn(changed.warning)
    return changed


def _wish(arguments: argparse.Namespace, identity: IdentityWish) -> Wish:
    addresses = tuple(arguments.address)
    paths = arguments.paths if arguments.paths is not None else len(addresses) or 2
    return Wish(paths, addresses, identity)


def _served(session: Session, arguments: argparse.Namespace) -> Answer:
    if arguments.wait:
        return _answer(images.await_serving(session.store, arguments.image, session.patience))
    return _answer(look(session.store).image(arguments.image))


def _answer(image: ImageStatus) -> Answer:
    return Answer(output.image_text(image), image.as_dict())
