"""`rbdgate cluster`: make and show the cluster."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from gateway.actions import cluster
from gateway.cli import discovery, output
from gateway.cli.parsers import Commands, leaf, typed
from gateway.cli.session import Answer, Session
from gateway.model import ClusterSettings, Network


def add(commands: Commands) -> None:
    """The group's commands."""
    init = leaf(commands, "init", _init, "make a cluster; done once, on one node")
    init.add_argument(
        "--network",
        action="append",
        required=True,
        type=typed(Network.parse),
        metavar="NAME=CIDR,FIRST-LAST",
        help="a network of the initiators, and the range portal addresses are taken from; at least one",
    )
    init.add_argument("--anchor-pool", required=True, metavar="POOL", help="where the anchor image (1 MiB) is made")
    init.add_argument("--iqn-prefix", metavar="IQN", help="what target names begin with")
    leaf(commands, "show", _show, "the cluster's settings")
    discovery.add(commands)


def _init(session: Session, arguments: argparse.Namespace) -> Answer:
    settings = cluster.initialise(
        session.store,
        session.ceph,
        networks=tuple(arguments.network),
        anchor_pool=arguments.anchor_pool,
        iqn_prefix=arguments.iqn_prefix,
    )
    return _answer(settings, session.store.keys.prefix)


def _show(session: Session, _: argparse.Namespace) -> Answer:
    return _answer(session.store.view().settings, session.store.keys.prefix)


def _answer(settings: ClusterSettings, prefix: str) -> Answer:
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
