"""Where a command has secrets from: a file, or a person who types each twice. Never the command line."""

from __future__ import annotations

import argparse
import getpass
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.cli.completing import files
from gateway.credentials import LONGEST, Credentials, Secret
from gateway.errors import BadInput


def add_credentials(command: argparse.ArgumentParser) -> None:
    """Let the command name users, and the files that hold the secrets."""
    command.add_argument("--user", required=True, metavar="NAME", help="what the initiator calls itself")
    command.add_argument("--mutual-user", metavar="NAME", help="what the target calls itself: it proves itself as well")
    for option, whose in (("--secret-file", "initiator's"), ("--mutual-secret-file", "target's")):
        file = command.add_argument(
            option, type=Path, metavar="FILE", help=f"a file with the {whose} secret; else it is asked for"
        )
        file.completer = files  # type: ignore[attr-defined]


def check_credentials(chosen: argparse.Namespace) -> str | None:
    """What is wrong with the options: a target's secret without its user."""
    if chosen.mutual_secret_file is not None and chosen.mutual_user is None:
        return "--mutual-secret-file needs --mutual-user"
    return None


def ask_credentials(chosen: argparse.Namespace, warn: Callable[[str], None]) -> Credentials:
    """The credentials that the options describe; BadInput says what is wrong with them, never what they are."""
    secret = _secret(chosen.secret_file, "initiator's", chosen.user, warn)
    mutual = None
    if chosen.mutual_user is not None:
        mutual = _secret(chosen.mutual_secret_file, "target's", chosen.mutual_user, warn)
    found = Credentials(chosen.user, secret, chosen.mutual_user or "", mutual)
    if found.warning:
        warn(found.warning)
    return found


def _secret(path: Path | None, whose: str, user: str, warn: Callable[[str], None]) -> Secret:
    return _from_person(whose, user) if path is None else _from_file(path, warn)


def _from_file(path: Path, warn: Callable[[str], None]) -> Secret:
    """The first line of a file, without its end."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(LONGEST + 3)
    except OSError as error:
        raise BadInput(f"the secret cannot be read: {path}: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        warn(f"{path} can be read by others than its owner")
    try:
        return Secret(raw.decode("utf-8").removesuffix("\n").removesuffix("\r"))
    except UnicodeDecodeError:
        raise BadInput(f"{path} holds no text") from None


def _from_person(whose: str, user: str) -> Secret:
    if not sys.stdin.isatty():
        raise BadInput("nobody is there to be asked for the secret (no terminal): name a file with --secret-file")
    typed = getpass.getpass(f"The {whose} secret ({user}): ")
    if getpass.getpass("The same again: ") != typed:
        raise BadInput("the two are not the same; nothing was changed")
    return Secret(typed)
