"""`rbdgate secrets`: the key that CHAP secrets are sealed with, on this node."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.cli.parsers import Commands, furnish_alone
from gateway.cli.session import Answer


def add(commands: Commands) -> None:
    """The group's commands."""
    purpose = "make the key, on the first gateway; copy its file to the others"
    furnish_alone(commands.add_parser("create-key", help=purpose), _create, purpose)
    purpose = "which key this node has, to compare gateways; never the key"
    furnish_alone(commands.add_parser("show-key-id", help=purpose), _show, purpose)


def _create(arguments: argparse.Namespace) -> Answer:
    from gateway.vault import create_key  # noqa: PLC0415 - help need not wait for it

    path = _path(arguments)
    key_id = create_key(path).key_id
    text = f"made {path} with key {key_id}\ncopy it to every other gateway, over a way that nobody reads, mode 0600"
    return Answer(text, {"key_file": str(path), "key_id": key_id})


def _show(arguments: argparse.Namespace) -> Answer:
    from gateway.vault import load  # noqa: PLC0415

    path = _path(arguments)
    key_id = load(path).key_id
    return Answer(key_id, {"key_file": str(path), "key_id": key_id})


def _path(arguments: argparse.Namespace) -> Path:
    from gateway.settings import Settings  # noqa: PLC0415

    return Settings.load(arguments.settings).key_file
