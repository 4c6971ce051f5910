"""Other processes of the contract tests: one that races for an image's header, one that writes until it is fenced."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.errors import Blocklisted, Conflict
from gateway.images.cluster import CephConnection, storage_errors
from gateway.images.header import ImageHeader
from gateway.images.holder import Holder
from gateway.images.sequence import next_pr_info
from gateway.model import Label


def say(word: object) -> None:
    """Tell the test, at once."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def race(connection: CephConnection, image_id: str, rounds: int) -> None:
    """Raise the sequence `rounds` times by guarded swaps, each decided anew until it is the one that counts."""
    header = ImageHeader(connection, "rbd", "", image_id)
    mine = Holder(1, Label("racer"), (connection.instance,))
    for _ in range(rounds):
        while True:
            seen = header.read()
            try:
                header.swap(seen, holder=mine, pr_info=next_pr_info(seen.pr_info))
                break
            except Conflict:
                continue


def write(connection: CephConnection, object_name: str) -> None:
    """Write growing numbers to an object until a write is refused; says its instance first, then the reason."""
    say(connection.instance)
    number = 0
    with connection.pool("rbd") as ioctx:
        try:
            while True:
                number += 1
                with storage_errors("writing"):
                    ioctx.write_full(object_name, b"%d" % number)
                if number == 20:
                    say("under way")
        except Blocklisted:
            say("refused")


def main(role: str, conf: str, keyring: str, *arguments: str) -> None:
    """Play one role against the cluster of that configuration file."""
    with CephConnection(Path(conf), "gw", Path(keyring), op_timeout=10) as connection:
        if role == "race":
            race(connection, arguments[0], int(arguments[1]))
        else:
            write(connection, arguments[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
