"""Completing a command line: argcomplete drives the parsers; live names come from etcd, quickly or not at all.

A parser's argument that takes a name carries a `Names`, which argcomplete asks. It says nothing when anything is wrong:
a shell in the middle of a line is no place for an error, and a name can always be typed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.store.guarded import Etcd
    from gateway.store.keys import Keys

DEADLINE = 1.0
"""Seconds etcd has to answer."""


class Kind(Enum):
    """What an argument names."""

    IMAGE = "images/"
    NODE = "nodes/"
    GROUP = "groups/"
    NETWORK = "settings"


class Names:
    """The names of some kinds that are in etcd now; `ending` is put behind each (as `=` behind a network's)."""

    def __init__(self, kinds: tuple[Kind, ...], ending: str = "") -> None:
        self.kinds, self.ending = kinds, ending

    def __call__(self, prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        """What argcomplete asks for: names that begin with what was typed; none if they cannot be had in time."""
        with suppress(Exception):  # whatever it is, a half-typed line is not the place to tell it
            return [name + self.ending for name in _ask(self.kinds, parsed_args) if name.startswith(prefix)]
        return []


def files(prefix: str, **_: object) -> list[str]:
    """Completes an argument that is a file's name."""
    from argcomplete.completers import FilesCompleter  # noqa: PLC0415

    return list(FilesCompleter()(prefix))


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and end the process; returns at once where no shell asks (`_ARGCOMPLETE` is not set)."""
    from argcomplete import autocomplete  # noqa: PLC0415 - a command that is run does not wait for it
    from argcomplete.completers import SuppressCompleter  # noqa: PLC0415

    nothing = SuppressCompleter()
    autocomplete(parser, always_complete_options="long", default_completer=nothing)


def named(etcd: Etcd, keys: Keys, kind: Kind) -> Iterable[str]:
    """The names of a kind, read from their keys alone; networks from the cluster's settings."""
    if kind is Kind.NETWORK:
        from gateway.schema import read_settings  # noqa: PLC0415

        found = etcd.get(keys.settings, timeout=DEADLINE)
        return [str(network.name) for network in read_settings(found.value, found.key).networks] if found else []
    folder = keys.folder(kind.value)
    return [item.key.removeprefix(folder) for item in etcd.range(folder, keys_only=True, timeout=DEADLINE).items]


def _ask(kinds: tuple[Kind, ...], parsed: argparse.Namespace) -> list[str]:
    from gateway.settings import Settings  # noqa: PLC0415
    from gateway.store.client import EtcdClient  # noqa: PLC0415
    from gateway.store.keys import Keys  # noqa: PLC0415
    from gateway.store.papers import Papers  # noqa: PLC0415

    settings = Settings.load(getattr(parsed, "settings", None))
    papers = Papers(settings.etcd.security)
    client = EtcdClient(settings.etcd.endpoints, papers=papers, call_timeout=DEADLINE / 2, timeout=DEADLINE)
    try:
        return [name for kind in kinds for name in named(client, Keys(settings.etcd.prefix), kind)]
    finally:
        client.close()
