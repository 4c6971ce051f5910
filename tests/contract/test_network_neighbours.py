"""Who has an address, asked and heard in this machine's own kernel: three hosts in network namespaces on a switch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
V4, V6 = "10.77.1.100", "fd77:1::100"
HOSTS = {"a": 11, "b": 12, "c": 13}

PRELUDE = """
import ipaddress, json, sys, threading, time
from gateway import network
A = ipaddress.ip_address

def say(value):
    print("SAID " + json.dumps(value), flush=True)
"""


MEET = """
import socket, subprocess
with socket.socket(socket.AF_INET6 if ":" in "{address}" else socket.AF_INET, socket.SOCK_DGRAM) as talk:
    talk.sendto(b"hello", ("{address}", 9))
end = time.monotonic() + 5
while "lladdr" not in subprocess.check_output(["ip", "neigh", "show", "{address}", "dev", "eth0"], text=True):
    assert time.monotonic() < end
    time.sleep(0.02)
"""


class Switch:
    """Hosts a, b and c with one interface `eth0` each, on one switch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self) -> None:
        """Make them, each with an address of either family."""
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "add", "switch", "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
        run("ip", "-n", self.name, "link", "set", "switch", "up")
        for host, number in HOSTS.items():
            namespace = self.host(host)
            run("ip", "netns", "add", namespace)
            peer = ("peer", "name", host, "netns", self.name)
            run("ip", "-n", namespace, "link", "add", "eth0", "address", self.mac(host), "type", "veth", *peer)
            run("ip", "-n", self.name, "link", "set", "dev", host, "master", "switch", "up")
            run("ip", "-n", namespace, "link", "set", "eth0", "up")
            run("ip", "-n", namespace, "address", "add", f"10.77.1.{number}/24", "dev", "eth0")
            run("ip", "-n", namespace, "address", "add", f"fd77:1::{number}/64", "dev", "eth0", "nodad")

    def remove(self) -> None:
        """Remove all of it."""
        for namespace in (*map(self.host, HOSTS), self.name):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)

    def host(self, name: str) -> str:
        """The host's namespace."""
        return f"{self.name}-{name}"

    @staticmethod
    def mac(name: str) -> str:
        """The hardware address of the host's interface."""
        return f"02:77:00:00:00:{HOSTS[name]:02x}"

    def sh(self, name: str, command: str) -> str:
        """Run a line of shell on a host; its output."""
        return run("ip", "netns", "exec", self.host(name), "sh", "-c", command)

    def python(self, name: str, *parts: str) -> list[Any]:
        """Run a script with the library on a host; what it gave to `say`."""
        with self.background(name, *parts) as running:
            output, _ = running.communicate(timeout=30)
        assert running.returncode == 0, output
        return [json.loads(line.removeprefix("SAID ")) for line in output.splitlines() if line.startswith("SAID ")]

    @contextmanager
    def background(self, name: str, *parts: str) -> Iterator[subprocess.Popen[str]]:
        """Run a script with the library on a host while the context lasts."""
        script = "\n".join(map(textwrap.dedent, (PRELUDE, *parts)))
        command = ["ip", "netns", "exec", self.host(name), sys.executable, "-c", script]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        running = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            yield running
        finally:
            running.kill()
            running.communicate()

    def meet(self, name: str, address: str) -> None:
        """Have a host learn who has an address, by talking to it."""
        self.python(name, MEET.format(address=address))

    def neighbour(self, name: str, address: str) -> str:
        """The MAC in that host's neighbour table for an address; empty if it has none."""
        words = self.sh(name, f"ip neigh show {address} dev eth0").split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def run(*command: str) -> str:
    """Run a command here; its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture(scope="module")
def made() -> Iterator[Switch]:
    """The three hosts."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    switch = Switch(f"neighbours-{os.getpid()}")
    try:
        switch.make()
        yield switch
    finally:
        switch.remove()


@pytest.fixture
def switch(made: Switch) -> Iterator[Switch]:
    """The three hosts, none with the portal addresses before and after."""
    yield made
    for host in HOSTS:
        for address in (f"{V4}/32", f"{V6}/128"):
            made.sh(host, f"ip address del {address} dev eth0 2>/dev/null; true")
        made.sh(host, "ip neigh flush dev eth0; ip -6 neigh flush dev eth0")


ASK = """
start = time.monotonic()
found = network.stranger_with("eth0", A(sys_address), frozenset(known))
say([found, time.monotonic() - start])
"""


def asked(switch: Switch, address: str, known: tuple[str, ...] = ()) -> tuple[str | None, float]:
    """What host a finds out about an address, and in how many seconds."""
    (found,) = switch.python("a", f"sys_address, known = {address!r}, {list(known)!r}", ASK)
    return found[0], found[1]


@pytest.mark.parametrize("address", [V4, V6])
def test_nobody_has_a_free_address(switch: Switch, address: str) -> None:
    """Silence is waited for during a second, not more."""
    found, seconds = asked(switch, address)
    assert found is None
    assert 0.9 < seconds < 5  # a second, and what a busy machine adds


@pytest.mark.parametrize("address", [V4, V6])
def test_who_has_an_address_is_found_at_once(switch: Switch, address: str) -> None:
    """A host's own kernel answers the first question; a host that is known is no stranger."""
    prefix = 32 if address == V4 else 128
    switch.sh("b", f"ip address add {address}/{prefix} dev eth0 {'nodad' if address == V6 else ''}")
    found, seconds = asked(switch, address)
    assert found == switch.mac("b")
    assert seconds < 0.3
    assert asked(switch, address, (switch.mac("b"),))[0] is None


@pytest.mark.parametrize("address", [V4, V6])
def test_asking_changes_nobodys_table(switch: Switch, address: str) -> None:
    """Who talks to the owner goes on talking to it, and nobody learns the asker's MAC for the address."""
    prefix = 32 if address == V4 else 128
    switch.sh("b", f"ip address add {address}/{prefix} dev eth0 {'nodad' if address == V6 else ''}")
    switch.meet("c", address)
    assert switch.neighbour("c", address) == switch.mac("b")
    assert asked(switch, address)[0] == switch.mac("b")
    assert switch.neighbour("c", address) == switch.mac("b")
    assert switch.neighbour("b", address) == ""


@pytest.mark.parametrize("address", [V4, V6])
def test_of_two_that_ask_at_once_one_at_most_finds_it_free(switch: Switch, address: str) -> None:
    """Another machine that probes for the address is about to take it: whoever hears the other lets it be."""
    with switch.background("c", f"sys_address, known = {address!r}, []", ASK) as other:
        found, _ = asked(switch, address)
        output, _ = other.communicate(timeout=30)
    assert found == switch.mac("c") or switch.mac("a") in output


def test_a_link_that_is_down_cannot_be_asked(switch: Switch) -> None:
    """Nothing is known of an address on an interface that is down or not there: an error, not silence."""
    said = switch.python(
        "a",
        """
        import subprocess
        from gateway.errors import KernelRefused
        subprocess.run(["ip", "link", "add", "spare", "type", "veth", "peer", "name", "spare-2"], check=True)
        for interface in ("spare", "no-such"):
            try: network.stranger_with(interface, A("10.77.1.100"), frozenset())
            except KernelRefused as error: say(str(error))
        subprocess.run(["ip", "link", "del", "spare"], check=True)
        """,
    )
    assert len(said) == 2
    assert all("cannot ask on" in line for line in said)


@pytest.mark.parametrize("address", [V4, V6])
def test_another_card_of_the_same_host_is_no_stranger(switch: Switch, address: str) -> None:
    """A leftover on a second card on the same wire answers in its own name, and is this node all the same."""
    prefix = 32 if address == V4 else 128
    host = switch.host("a")
    run("ip", "-n", host, "link", "add", "eth1", "type", "veth", "peer", "name", "a-2", "netns", switch.name)
    try:
        run("ip", "-n", switch.name, "link", "set", "dev", "a-2", "master", "switch", "up")
        run("ip", "-n", host, "link", "set", "eth1", "up")
        switch.sh("a", f"ip address add {address}/{prefix} dev eth1 {'nodad' if address == V6 else ''}")
        switch.meet("b", address)
        assert switch.neighbour("b", address)
        assert asked(switch, address)[0] is None
    finally:
        run("ip", "-n", host, "link", "del", "eth1")


DEFEND = """
from agent.announcer import Announcer
from agent.defence import Defence
P = [A("10.77.1.100"), A("fd77:1::100")]
for a in P: network.add_address("eth0", a); network.announce("eth0", a)
answers = []
def announce(address):
    answers.append(address)
    network.announce("eth0", address)
announcer = Announcer(announce, lambda: True)
announcer.start()
heard = []
def contested(said):
    found = network.contested(said)
    heard.extend(found)
    return found
Defence(contested, lambda: frozenset(), announcer.defend).start()
say("READY")
sys.stdin = open(0)
"""


@pytest.mark.parametrize("address", [V4, V6])
def test_a_claim_by_a_stranger_is_answered(switch: Switch, address: str) -> None:
    """c announces an address that a serves: b's table follows it, and is back at a right away; twice in a row, too."""
    with switch.background("a", DEFEND, "time.sleep(20)") as holder:
        await_ready(holder)
        switch.meet("b", address)
        assert switch.neighbour("b", address) == switch.mac("a")
        for _ in range(2):
            watch = WATCH.format(address=address, claim=claim(switch, address), stranger=switch.mac("c"))
            (flipped,) = switch.python("b", watch)
            assert flipped[0] == [switch.mac("c"), switch.mac("a")]
            assert flipped[1] < 10, flipped  # milliseconds, mostly; nothing else would bring it back


WATCH = """
import subprocess
monitor = subprocess.Popen(["ip", "monitor", "neigh"], stdout=subprocess.PIPE, text=True, bufsize=1)
bound = threading.Timer(8, monitor.kill)
bound.start()
time.sleep(0.3)
claimer = subprocess.Popen({claim!r})
seen = []
for words in map(str.split, monitor.stdout):
    if words[0] == "{address}" and "lladdr" in words:
        mac = words[words.index("lladdr") + 1]
        if not seen and mac == {stranger!r} or seen and mac != seen[0][0]:
            seen.append((mac, time.monotonic()))
    if len(seen) == 2:
        break
bound.cancel(); monitor.kill(); monitor.wait(); claimer.wait()
say([[mac for mac, _ in seen], seen[-1][1] - seen[0][1] if seen else None])
"""


def claim(switch: Switch, address: str) -> list[str]:
    """The command that has c announce an address it does not have."""
    script = (
        f"import ipaddress; from gateway import network; network.announce('eth0', ipaddress.ip_address({address!r}))"
    )
    return ["ip", "netns", "exec", switch.host("c"), sys.executable, "-c", script]


def await_ready(running: subprocess.Popen[str]) -> None:
    """Return when the script says so."""
    assert running.stdout is not None
    assert "READY" in running.stdout.readline()
