"""What must be true after every step. Each returns what is wrong, in words, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import Instance, Label
from tests.fakes.rados import FakeImage
from tests.simulation.guests import Guest

if TYPE_CHECKING:
    from tests.simulation.node import Node

Exporter = tuple["Node", int, Instance | None]
"""A node with an enabled portal of an image: the token its export was built under, and the client it sits on."""


def nothing_acknowledged_is_lost(guest: Guest, image: FakeImage) -> str | None:
    """The block never holds a number below the last one that was acknowledged."""
    if image.block < guest.acked:
        return f"{image.name.name}: write {guest.acked} was acknowledged, and {image.block} stands on the disk"
    return None


def no_former_holder_lands(name: str, serial: int, newest: int) -> str | None:
    """Once a map was used for the image, nothing comes through a map that was made before it."""
    if serial < newest:
        return f"{name}: a write through map {serial} landed after map {newest} was in use"
    return None


def older_exporters_are_fenced(image: FakeImage, exporters: list[Exporter], fenced: set[Instance]) -> str | None:
    """Of several nodes with an enabled portal for one image, all but the newest are fenced."""
    newest = max(token for _, token, _ in exporters)
    free = [node for node, token, client in exporters if token < newest and client not in fenced]
    if free or len([1 for _, token, _ in exporters if token == newest]) > 1:
        names = " and ".join(f"{node.name} (claim {token})" for node, token, _ in exporters)
        return f"{image.name.name}: enabled portals on {names}, and the older is not fenced"
    return None


def the_header_names_the_newest(image: FakeImage, exporter: Exporter) -> str | None:
    """A node that exports an image and is not fenced stands in the image's header, with its client, unreleased."""
    node, token, client = exporter
    holder = image.holder
    if holder is None or holder.released or holder.token != token or client not in holder.instances:
        return (
            f"{image.name.name}: {node.name} exports it through {client} under claim {token}, the header says {holder}"
        )
    return None


def nobody_serves_beyond_its_claim(image: FakeImage, exporter: Exporter, claim: int | None) -> str | None:
    """With its guard at work, no node answers for an image whose claim has ended."""
    node, token, _ = exporter
    if claim != token:
        return f"{image.name.name}: {node.name} answers under claim {token}, which has ended (now: {claim})"
    return None


def only_openers_are_fenced(victim: Instance, seen: set[Instance], owner: Label | None) -> str | None:
    """A fence hits clients that were recorded or seen for an image, and never a live node's."""
    if owner is not None:
        return f"client {victim} of the live node {owner} was fenced"
    if victim not in seen:
        return f"client {victim} was fenced, and never had an image open"
    return None
