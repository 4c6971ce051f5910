"""The commands and their options. What is malformed in itself is wrong usage: exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from gateway.cli.output import as_json
from gateway.cli.values import parse_count, parse_named_address, parse_seconds, parse_size, parse_tagged_address
from gateway.errors import BadInput
from gateway.model import ImageName, Iqn, Label, Network

T = TypeVar("T")
Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"

EPILOG = """exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 accepted but not reached within --timeout.
With --json a command prints one JSON document on standard output; if it fails, that is
{"error": {"kind": ..., "message": ...}}, and the message is on standard error as well."""


class _Wrong(Exception):
    """How a command should have been written, and what was wrong with it."""

    def __init__(self, usage: str, message: str) -> None:
        super().__init__(message)
        self.usage = usage


class _Parser(argparse.ArgumentParser):
    """A parser that leaves it to its caller to tell what is wrong."""

    def __init__(self, **keywords: Any) -> None:  # noqa: ANN401 - whatever this Python's argparse passes
        super().__init__(
            **keywords,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            epilog=EPILOG,
        )

    def error(self, message: str) -> NoReturn:
        raise _Wrong(self.format_usage(), message)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its options; `command` is its name in `gateway.cli.commands`.

    Wrong usage and `--help` end the process, with exit status 2 and 0.
    """
    try:
        found = _whole_parser().parse_args(arguments)
        _check_together(found)
    except _Wrong as wrong:
        print(f"{wrong.usage}rbdgate: {wrong}", file=sys.stderr)
        if "--json" in arguments:
            print(as_json({"error": {"kind": "Usage", "message": str(wrong)}}))
        raise SystemExit(2) from None
    return found


def _whole_parser() -> _Parser:
    parser = _Parser(prog="rbdgate", description="Highly available iSCSI gateways for Ceph RBD.")
    parser.add_argument("--version", action="store_true", help="print the version")
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _add_cluster(groups)
    _add_image(groups)
    _add_initiator(groups)
    _add_node(groups)
    status = _leaf(groups, "status", "status", "the whole cluster: images and nodes")
    status.add_argument("--watch", action="store_true", help="print it again whenever it changes, until interrupted")
    return parser


def _check_together(found: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if not found.version and not hasattr(found, "command"):
        raise _Wrong("", "which command? see `rbdgate --help`, or `rbdgate COMMAND --help`")
    if getattr(found, "path", []):
        if found.address or found.paths is not None:
            raise _Wrong("", "--path names all paths with their tags; leave --address and --paths out")
        if len(dict(found.path)) != len(found.path):
            raise _Wrong("", "--path: a tag is named twice; each path has its own")
    addresses = [address for _, address in getattr(found, "address", [])]
    if len(set(addresses)) != len(addresses):
        raise _Wrong("", "--address: an address is named twice; each path has its own")
    if addresses and found.paths is not None and found.paths < len(addresses):
        raise _Wrong("", f"--paths {found.paths}: {len(addresses)} addresses are named; ask for as many paths, or more")


def _add_cluster(groups: Commands) -> None:
    commands = _group(groups, "cluster", "make and show the cluster")
    init = _leaf(commands, "init", "cluster_init", "make a cluster; done once, on one node")
    init.add_argument(
        "--network",
        action="append",
        required=True,
        type=_typed(Network.parse),
        metavar="NAME=CIDR,FIRST-LAST",
        help="a network of the initiators, and the range portal addresses are taken from; at least one",
    )
    init.add_argument("--anchor-pool", required=True, metavar="POOL", help="where the anchor image (1 MiB) is made")
    init.add_argument("--iqn-prefix", metavar="IQN", help="what target names begin with")
    _leaf(commands, "show", "cluster_show", "the cluster's settings")


def _add_image(groups: Commands) -> None:
    commands = _group(groups, "image", "make, adopt, move and delete images")
    create = _leaf(commands, "create", "image_create", "make an RBD image and serve it", waits=True)
    _name(create)
    create.add_argument("--size", required=True, type=_typed(parse_size), help="bytes, or like 10G, 1.5T")
    _add_paths(create)
    adopt = _leaf(commands, "adopt", "image_adopt", "serve an RBD image that is there, as it is", waits=True)
    _name(adopt)
    _add_paths(adopt)
    adopt.add_argument("--iqn", type=_typed(Iqn), help="the target name it had elsewhere")
    adopt.add_argument("--serial", help="the unit serial it had elsewhere")
    adopt.add_argument("--vendor", help="the INQUIRY vendor it had elsewhere")
    adopt.add_argument("--product", help="the INQUIRY product it had elsewhere")
    adopt.add_argument(
        "--path",
        action="append",
        default=[],
        type=_typed(parse_tagged_address),
        metavar="TAG=ADDRESS",
        help="a path it had elsewhere; all of them, with tags 1 to N",
    )
    _leaf(commands, "list", "image_list", "every image")
    _name(_leaf(commands, "show", "image_show", "one image with its paths"))
    delete = _leaf(
        commands,
        "delete",
        "image_delete",
        "stop serving an image; its data goes to RBD's trash",
        waits=True,
        description=(
            "Stops serving an image and forgets it. The RBD image is moved to the trash, whole: `rbd trash list\n"
            "POOL` and `rbd trash restore POOL/ID` bring it back. No data is destroyed by this command. One that was\n"
            "cut short, or that gave up waiting, is finished by running it again with the same options."
        ),
    )
    _name(delete)
    delete.add_argument("--keep", action="store_true", help="leave the RBD image where it is")
    move = _leaf(commands, "move", "image_move", "have another node serve an image", waits=True)
    _name(move)
    move.add_argument("--to", type=_typed(Label), metavar="NODE", help="default: the best other node")


def _add_initiator(groups: Commands) -> None:
    commands = _group(groups, "initiator", "who may log in to an image")
    for word, purpose in (("allow", "let an initiator log in"), ("deny", "let it log in no more, end its sessions")):
        command = _leaf(commands, word, f"initiator_{word}", purpose, waits=True)
        _name(command)
        command.add_argument("iqn", type=_typed(Iqn), metavar="IQN", help="the initiator's name")
    _name(_leaf(commands, "list", "initiator_list", "who may log in"))


def _add_node(groups: Commands) -> None:
    commands = _group(groups, "node", "the gateways")
    _leaf(commands, "list", "node_list", "every node that ever joined")
    show = _leaf(commands, "show", "node_show", "one node")
    show.add_argument("node", type=_typed(Label), metavar="NODE")


def _add_paths(command: argparse.ArgumentParser) -> None:
    command.add_argument("--paths", type=_typed(parse_count), metavar="N", help="how many portal addresses; default: 2")
    command.add_argument(
        "--address",
        action="append",
        default=[],
        type=_typed(parse_named_address),
        metavar="NETWORK=IP",
        help="a portal address; those not named are chosen from the networks in turn",
    )


def _group(groups: Commands, word: str, purpose: str) -> Commands:
    parser = groups.add_parser(word, help=purpose, description=_sentence(purpose))
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)


def _leaf(
    commands: Commands,
    word: str,
    command: str,
    purpose: str,
    *,
    waits: bool = False,
    description: str = "",
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        word, help=purpose, description=description or _sentence(purpose)
    )
    parser.set_defaults(command=command)
    if waits:
        parser.add_argument(
            "--timeout",
            type=_typed(parse_seconds),
            default=60.0,
            metavar="SECONDS",
            help="how long to wait; default: 60",
        )
        wait = parser.add_mutually_exclusive_group()
        wait.add_argument(
            "--wait", dest="wait", action="store_true", default=True, help="until it is reached (default)"
        )
        wait.add_argument("--no-wait", dest="wait", action="store_false", help="only until it is accepted")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="default: /etc/rbdgate/rbdgate.toml")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _name(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "image", type=_typed(ImageName.parse), metavar="IMAGE", help="POOL/NAME or POOL/NAMESPACE/NAME"
    )


def _typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The parser as argparse wants it: what it refuses is told with its own words."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except BadInput as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _sentence(purpose: str) -> str:
    return purpose[0].upper() + purpose[1:] + "."
