"""`rbdgate reservation`: who is registered at an image, who holds it, and changes of that by hand."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.actions import reservations
from gateway.actions.reservations import Asked, Registered, Table
from gateway.cli import output
from gateway.cli.parsers import MINUTE, Commands, image_argument, leaf
from gateway.cli.recording import operator
from gateway.cli.session import Answer, Session
from gateway.errors import RbdgateError, StorageUnavailable
from gateway.model import Iqn

if TYPE_CHECKING:
    from gateway.lio.logins import Session as Login

_CLEAR = """Empties an image's table of reservations: nobody is registered and nobody holds it afterwards. It works on a
table that is damaged, too. The image is withdrawn for that and served anew, which initiators feel as a planned move."""

_FORGET = """Forgets one registration, with the reservation if it holds one. The image is withdrawn for that and served
anew, which initiators feel as a planned move."""


def add(commands: Commands) -> None:
    """The group's commands."""
    leaf(commands, "list", _list, "each image's reservation and its registrations")
    image_argument(leaf(commands, "show", _show, "who is registered at an image, and who holds what"))
    purpose = "empty an image's table of reservations"
    clear = leaf(commands, "clear", _clear, purpose, waits=MINUTE, description=_CLEAR, check=_unsaid)
    purpose = "forget one registration"
    forget = leaf(commands, "forget", _forget, purpose, waits=MINUTE, description=_FORGET, check=_unsaid)
    for command in (clear, forget):
        image_argument(command)
        command.add_argument("--reason", required=True, metavar="TEXT", help="why; kept with the event")
    forget.add_argument("nexus", metavar="NEXUS", help="as `reservation show` has it in its first column")


def _unsaid(chosen: argparse.Namespace) -> str | None:
    return None if chosen.reason.strip() else "--reason: say why"


def _list(session: Session, _: argparse.Namespace) -> Answer:
    tables = reservations.listed(session.store, session.ceph)
    rows = [_row(table) for table in tables]
    text = output.table(("IMAGE", "RESERVATION", "HELD BY", "REGISTERED", "STALE", "REMARK"), rows)
    return Answer(text, [_summary(table) for table in tables])


def _show(session: Session, arguments: argparse.Namespace) -> Answer:
    return _answer(session, arguments)


def _clear(session: Session, arguments: argparse.Namespace) -> Answer:
    by, why = operator(str(session.node)), arguments.reason
    asked = reservations.clear(session.store, session.ceph, arguments.image, by=by, why=why)
    return _made(session, arguments, asked)


def _forget(session: Session, arguments: argparse.Namespace) -> Answer:
    by, why = operator(str(session.node)), arguments.reason
    asked = reservations.forget(session.store, session.ceph, arguments.image, arguments.nexus, by=by, why=why)
    return _made(session, arguments, asked)


def _made(session: Session, arguments: argparse.Namespace, asked: Asked) -> Answer:
    if asked.holder is None:
        session.warn(f"nobody holds image {arguments.image} now: the change waits until it is taken up")
    elif arguments.wait:
        reservations.await_made(session.store, asked, session.patience)
    try:
        return _answer(session, arguments)
    except StorageUnavailable as error:  # it stands in etcd all the same
        text = f"the change of image {arguments.image} is accepted; what is recorded cannot be read: {error}"
        return Answer(text, {"image": str(arguments.image), "unknown": str(error)})


def _answer(session: Session, arguments: argparse.Namespace) -> Answer:
    notes: list[str] = []

    def logins(iqn: Iqn) -> Collection[Login]:
        try:
            return session.logins(iqn)
        except RbdgateError as error:
            notes.append(f"who is logged in on this node could not be read: {error}")
            return ()

    table = reservations.show(session.store, session.ceph, arguments.image, session.node, logins)
    if table.holder not in (None, session.node) and table.registered:
        notes.append(f"only {table.holder}, which holds the image, knows who is logged in with which ISID: look there")
    note = "; ".join(notes)
    return Answer(_text(table, note), _document(table) | {"note": note})


def carried_text(table: Table) -> str:
    """What an adopted image brought along, and what becomes of it; empty if that is nothing."""
    if not table.registered:
        return ""
    rows = [(each.name, f"0x{each.registration.key:016x}", _becomes(each)) for each in table.registered]
    held = table.state.reservation if table.state else None
    words = f"{held.type.words}, held by {_held_by(table)}" if held else "none"
    title = f"registrations found in the image (reservation: {words}):"
    return title + "\n" + output.table(("NEXUS", "KEY", "WHAT BECOMES OF IT"), rows)


def carried_document(table: Table) -> dict[str, Any]:
    """The same for scripts."""
    summary = _summary(table)
    kept = {key: summary[key] for key in ("type", "held_by", "registrations", "damaged")}
    return kept | {
        "way_out": table.way_out if table.damaged else "",
        "found": [
            {"nexus": each.name, "key": f"0x{each.registration.key:016x}", "cannot_bind": each.stale}
            for each in table.registered
        ],
    }


def _becomes(each: Registered) -> str:
    if each.stale:
        return f"cannot be in force: {each.stale}"
    return f"in force when {each.registration.nexus.initiator} is allowed"


def _row(table: Table) -> tuple[str, ...]:
    state = table.state
    if state is None:
        reason = f"damaged: {table.damaged}" if table.damaged else f"unknown: {table.unknown}"
        return str(table.spec.name), "?", "?", "?", "?", reason
    stale = sum(bool(each.stale) for each in table.registered)
    held = state.reservation.type.words if state.reservation else "-"
    return str(table.spec.name), held, _held_by(table) or "-", str(len(table.registered)), str(stale), _remark(table)


def _remark(table: Table) -> str:
    said = []
    if not table.spec.attributes.emulate_pr:
        said.append("off")
    if table.state is not None and table.state.nearly_full:
        said.append("nearly full")
    if table.pending is not None:
        said.append("a change is pending")
    return ", ".join(said)


def _held_by(table: Table) -> str:
    """The initiator that holds the image's reservation, or empty."""
    held = table.state.reservation if table.state else None
    if held is None:
        return ""
    return "all registrants" if held.type.held_by_all else str(held.holder.initiator)


def _summary(table: Table) -> dict[str, Any]:
    state = table.state
    held = state.reservation if state else None
    return {
        "image": str(table.spec.name),
        "enabled": bool(table.spec.attributes.emulate_pr),
        "enforce_isids": bool(table.spec.attributes.enforce_pr_isids),
        "type": held.type.words if held else None,
        "held_by": _held_by(table) or None,
        "registrations": len(table.registered) if state else None,
        "stale": sum(bool(each.stale) for each in table.registered) if state else None,
        "nearly_full": state.nearly_full if state else None,
        "damaged": table.damaged,
        "unknown": table.unknown,
        "pending": table.pending.words if table.pending else None,
    }


def _document(table: Table) -> dict[str, Any]:
    state = table.state
    held = state.reservation if state else None
    summary = _summary(table) | {
        "iqn": str(table.spec.identity.iqn),
        "holder": str(table.holder) if table.holder else None,
        "generation": state.generation if state else None,
        "held_since": _when(held.since) if held else None,
        "way_out": table.way_out if table.damaged else "",
    }
    return summary | {"registrations": [_registration(table, each) for each in table.registered]}


def _registration(table: Table, each: Registered) -> dict[str, Any]:
    one = each.registration
    return {
        "nexus": each.name,
        "initiator": str(one.nexus.initiator),
        "isid": one.nexus.isid or None,
        "target": str(one.nexus.target),
        "tag": one.nexus.tag,
        "portal": _portal(table, each) or None,
        "key": f"0x{one.key:016x}",
        "all_tg_pt": one.all_tg_pt,
        "since": _when(one.since),
        "holds": _holds(table, each),
        "stale": each.stale,
        "other_sessions": list(each.elsewhere),
    }


def _text(table: Table, note: str) -> str:
    facts = [("image", str(table.spec.name)), ("target", str(table.spec.identity.iqn))]
    state = table.state
    if not table.spec.attributes.enforce_pr_isids:
        facts.append(("ISIDs", "not enforced: whenever the image moves, its registrants become known by their names"))
    if not table.spec.attributes.emulate_pr:
        facts.append(("reservations", "off: every PERSISTENT RESERVE is refused"))
    if state is None:
        facts.append(("damaged", f"{table.damaged}; the image is not exported; {table.way_out}"))
    else:
        held = state.reservation
        words = "none" if held is None else f"{held.type.words}, {_held_by(table)}, since {_when(held.since) or '?'}"
        facts += [("reservation", words), ("generation", str(state.generation))]
        full = ", nearly full" if state.nearly_full else ""
        facts.append(("registered", f"{len(table.registered)}{full}"))
    if table.pending is not None:
        facts.append(("pending", table.pending.words))
    parts = [output.facts(facts)]
    if table.registered:
        rows = [_line(table, each) for each in table.registered]
        parts.append(output.table(("NEXUS", "SESSION", "PATH", "KEY", "SINCE", "REMARK"), rows))
    return "\n\n".join([*parts, *([note] if note else [])])


def _line(table: Table, each: Registered) -> tuple[str, ...]:
    one = each.registration
    session = {0: "any session", 8: f"{one.nexus.isid}..."}.get(len(one.nexus.isid), one.nexus.isid)
    path = f"{one.nexus.tag} {_portal(table, each)}".strip()
    said = (
        _holds(table, each) and "holds the reservation",
        one.all_tg_pt and "made for all paths (ALL_TG_PT)",
        each.stale and f"stale: {each.stale}",
        each.elsewhere and f"logged in there with ISID {', '.join(each.elsewhere)}, which is not registered",
    )
    remark = "; ".join(word for word in said if word)
    return each.name, session, path, f"0x{one.key:016x}", _when(one.since) or "not known", remark


def _holds(table: Table, each: Registered) -> bool:
    held = table.state.reservation if table.state else None
    return held is not None and (held.type.held_by_all or held.holder == each.registration.nexus)


def _portal(table: Table, each: Registered) -> str:
    """The address of the registration's path, where it is one of the image's."""
    nexus = each.registration.nexus
    paths = table.spec.paths if nexus.target == table.spec.identity.iqn else ()
    return next((output.portal(str(path.address), path.port) for path in paths if path.tag == nexus.tag), "")


def _when(since: int) -> str | None:
    """A time in UTC as ISO 8601 has it; None if it was never recorded."""
    if not since:
        return None
    try:
        return datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{since} s after 1970"
