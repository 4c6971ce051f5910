"""One lab of fresh hosts for the tests here that need hosts: made a cluster, worked on, uninstalled, upgraded."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.deployment import fresh
from tests.deployment.controller import Play
from tests.deployment.operator import PLAYED_WITHIN, VERSION
from tests.deployment.stage import Site, open_site
from tests.lab.cluster import Lab, own_name

NAME = own_name("deploy")


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Three fresh hosts to be gateways and one to be an initiator; RBDGATE_DEPLOYED names one that is left up."""
    given = os.environ.get("RBDGATE_DEPLOYED")
    lab = Lab(given or NAME, print)
    lab.down()
    try:
        site = open_site(lab, fresh.up(lab, gateways=3, initiators=1))
        site.offer(VERSION)
        site.furnish(gateway_version=VERSION)
        yield site
    finally:
        if not given:
            lab.down()


@pytest.fixture(scope="session")
def first(site: Site) -> Play:
    """The first run of `site.yml`."""
    return site.controller.play("site", within=PLAYED_WITHIN)
