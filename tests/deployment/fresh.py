"""A lab of hosts that nothing was installed on: Debian with systemd and sshd, and what serves them packages and time.

Ceph and the lab's own etcd are there, as they are before anybody thinks of gateways. Once made, `tests.lab.cluster.Lab`
works on it as on any lab.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tests.deployment import provisions
from tests.lab import belonging, host, tree
from tests.lab.cluster import Lab
from tests.lab.furnish import Upper, furnish_fresh
from tests.lab.layout import CONTROL, MON_ADDRESS, Places
from tests.lab.making import Making, at_once, ceph_of, etcd_of
from tests.lab.networks import Wires
from tests.lab.processes import Process
from tests.lab.shape import Shape, changing
from tests.lab.ssh import make_keys

SERVER = f"{CONTROL.v4}1"
PORT = 8080


def up(lab: Lab, gateways: int, initiators: int) -> Path:
    """Make the lab and return when every host answers; the directory whose `wheels/` the hosts are served.

    What is in that directory can be added to; the lab's end removes it.
    """
    host.check()
    os.umask(0o022)
    places, shape = lab.places, Shape(gateways, initiators, bare=True)
    with changing(places), belonging.marked(lab.name):
        shape.write(places)
        for directory in (places.data / "log", places.run / "uml", places.data / "served/wheels"):
            directory.mkdir(parents=True)
        places.data.chmod(0o700)
        root = tree.ready(tree.Recipe.fresh(), print)
        served = _offer(places, provisions.ready(root))
        Wires(places.netns).create(shape.nodes())
        _serve(places, served)
        etcd_of(places).start()
        _start_ceph(places)
        shape = replace(shape, tree=str(root))
        shape.write(places)
        keys = make_keys(places.data / "keys")
        for node in shape.nodes():
            furnish_fresh(node, places, keys)
            _name_sources(Upper(places.home(node) / "upper"))
        at_once(Making(places, print).boot, shape.nodes())
        replace(shape, ready=True).write(places)
        for node in shape.nodes():  # as an installer leaves a host: check mode reads no lists anew
            lab.exec(node.name, "apt-get", "-qq", "update", timeout=120)
    return served


def _offer(places: Places, made: Path) -> Path:
    """A directory of the lab's own with what was downloaded linked into it."""
    served = places.data / "served"
    (served / "debian").symlink_to(made / "debian")
    for wheel in (made / "wheels").iterdir():
        (served / "wheels" / wheel.name).symlink_to(wheel)
    return served


def _serve(places: Places, served: Path) -> None:
    """Start what the hosts fetch packages from and ask for the time; neither touches this machine's own."""
    enter = ("nsenter", f"--net=/run/netns/{places.netns}")
    web = [*enter, "/usr/bin/python3", "-m", "http.server", "--bind", SERVER, "--directory", str(served), str(PORT)]
    Process(places.run / "web.pid").start(web, log=places.data / "log/web.log")
    clock = [*enter, "/usr/bin/python3", str(Path(__file__).with_name("clock.py")), SERVER]
    Process(places.run / "clock.pid").start(clock, log=places.data / "log/clock.log")


def _start_ceph(places: Places) -> None:
    """A cluster with one pool of others', and a CRUSH rule for the pool that is to be made."""
    ceph = ceph_of(places)
    ceph.start()
    ceph.create_pool("other", 0)
    assert ceph.mon_address == MON_ADDRESS


def _name_sources(upper: Upper) -> None:
    """Debian's mirror, as the machine's owner named it, and a dpkg that does not wait for a disk of the host's."""
    upper.write("etc/apt/sources.list", f"deb [trusted=yes] http://{SERVER}:{PORT}/debian ./\n")
    upper.write("etc/apt/apt.conf.d/lab.conf", 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n')
    upper.write("etc/dpkg/dpkg.cfg.d/lab", "force-unsafe-io\n")
