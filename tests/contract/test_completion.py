"""Shell completion as a shell asks for it, with live names from a real etcd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.model import Label
from gateway.schema import write_group
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore
from gateway.store.values import Put
from tests.contract.cluster_fixtures import SETTINGS, endpoints, live, spec

__all__ = ["endpoints"]  # a fixture

Ask = Callable[[str], list[str]]


def asking(settings: Path) -> Ask:
    """What a shell does when somebody presses TAB at a line's end: argcomplete's protocol, answers on channel 8."""

    def ask(line: str) -> list[str]:
        environment = os.environ | {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "RBDGATE_SETTINGS": str(settings),
        }
        command = f"{sys.executable} -m gateway.cli.main 8>&1 9>&2 >/dev/null"
        done = subprocess.run(["bash", "-c", command], env=environment, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        return [word.strip() for word in done.stdout.split("\n") if word.strip()]

    return ask


@pytest.fixture
def ask(endpoints: tuple[str, ...], tmp_path: Path) -> Ask:
    """A shell on a cluster with two images, a node and a group."""
    client = EtcdClient(endpoints)
    prefix = f"/rbdgate/completion-{tmp_path.name}/"
    store = ClusterStore(client, prefix)
    store.initialise(SETTINGS)
    store.create_image(spec("rbd/disk1", "10.0.1.101"))
    store.create_image(spec("rbd/ns/data", "10.0.1.102"))
    store.join(live("gw1", client.grant_lease(60).id))
    client.transact([], [Put(store.keys.group(Label("web")), write_group(()))])
    client.close()
    settings = tmp_path / "rbdgate.toml"
    settings.write_text(f'[etcd]\nendpoints = {json.dumps(endpoints)}\nprefix = "{prefix}"\n')
    return asking(settings)


def test_names_are_those_in_etcd(ask: Ask) -> None:
    """Images, nodes and networks are offered as they are now, by what was typed so far."""
    assert {"rbd/disk1", "rbd/ns/data"} <= set(ask("rbdgate image show "))
    assert ask("rbdgate image show rbd/d") == ["rbd/disk1"]
    assert "gw1" in ask("rbdgate node drain ")
    assert ask("rbdgate image move rbd/disk1 --to ") == ["gw1"]
    assert ask("rbdgate image create rbd/x --address ") == ["a=", "b="]
    assert ask("rbdgate initiator allow rbd/disk1 --group ") == ["web"]
    assert {"rbd/disk1", "rbd/ns/data", "gw1"} <= set(ask("rbdgate events "))


def test_commands_and_options(ask: Ask) -> None:
    """Words and long options are the parsers'."""
    assert {"image", "node", "status", "plan"} <= set(ask("rbdgate "))
    assert set(ask("rbdgate image reb")) == {"rebalance"}
    assert {"rebalance", "resize"} <= set(ask("rbdgate image re"))
    assert "--dry-run" in ask("rbdgate image rebalance --")
    assert set(ask("rbdgate completion ")) >= {"bash", "zsh", "fish"}


def test_without_etcd_nothing_is_offered_soon(tmp_path: Path) -> None:
    """An etcd that does not answer costs about a second, and no word on the terminal; neither do broken settings."""
    settings = tmp_path / "rbdgate.toml"
    ask = asking(settings)
    settings.write_text('[etcd]\nendpoints = ["127.0.5.77:1"]\n')
    began = time.monotonic()
    assert [word for word in ask("rbdgate node show ") if not word.startswith("--")] == []
    assert time.monotonic() - began < 5
    settings.write_text("?")
    assert [word for word in ask("rbdgate node show ") if not word.startswith("--")] == []
