"""The network room in real kernels: portal addresses, cuts, announcements and nudges between two gateways."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the plugin below imports it, and pytest wants to be the first
    from tests.lab.bare import Rooms

pytest_plugins = ("tests.lab.bare",)

SETTINGS = """
settings = ClusterSettings(
    "fsid",
    (Network.parse("storage-1=10.77.1.0/24,10.77.1.100-10.77.1.199"),
     Network.parse("storage-2=10.77.2.0/24,10.77.2.100-10.77.2.199")),
    "rbd",
)
P = [A("10.77.1.100"), A("fd77:1::100")]

def clean():
    network.remove_addresses(network.observe_own().addresses)
    network.uncut(network.observe_own().cuts)
"""

PORTALS = ["10.77.1.100", "fd77:1::100"]
BOUND = 60  # seconds a stream goes on if nobody ends it
ENOUGH = "/run/rbdgate-stream-is-enough"  # once it is there, what streams or receives on that node ends

STREAM = """
import os, socket, sys, threading, time
def serve(family, address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IP, 15, 1)
    listener.bind((address, 5000))
    listener.listen()
    sys.stdout.write("LISTENING\\n")  # in one piece: prints of two threads mix
    connection, _ = listener.accept()
    while True:
        connection.sendall(b"x" * 1000)
        time.sleep(0.01)
for family, address in ((socket.AF_INET, "10.77.1.100"), (socket.AF_INET6, "fd77:1::100")):
    threading.Thread(target=serve, args=(family, address), daemon=True).start()
end = time.monotonic() + {bound}
while time.monotonic() < end and not os.path.exists("{enough}"): time.sleep(0.1)
"""

RECEIVER = """
import json, os, socket, threading, time
found = {{}}
def receive(address):
    connection = socket.create_connection((address, 5000), timeout=10)
    start = last = time.monotonic()
    longest, end = 0.0, "open"
    connection.settimeout(1.0)
    while time.monotonic() < start + {bound} and not os.path.exists("{enough}"):
        try:
            if not connection.recv(65536):
                end = "closed"
                break
        except TimeoutError:
            continue
        except OSError as error:
            end = type(error).__name__
            break
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    found[address] = [end, longest, time.monotonic() - last]
threads = [threading.Thread(target=receive, args=(a,)) for a in ("10.77.1.100", "fd77:1::100")]
for t in threads: t.start()
for t in threads: t.join()
print(json.dumps(found), flush=True)
"""

SNIFFER = """
import ipaddress, socket, struct, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((sys.argv[1], 0)); wire.settimeout(0.2)
sources = {ipaddress.ip_address(text) for text in sys.argv[3:]}
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try: frame = wire.recv(65536)
    except TimeoutError: continue
    kind, packet = struct.unpack("!H", frame[12:14])[0], frame[14:]
    if kind == 0x800: source, proto = ipaddress.ip_address(packet[12:16]), packet[9]
    elif kind == 0x86dd: source, proto = ipaddress.ip_address(packet[8:24]), packet[6]
    else: continue
    if source in sources: print(time.time(), source, proto, flush=True)
"""


@pytest.fixture
def net(rooms: Rooms) -> Iterator[Rooms]:
    """The rooms with no portal address and no cut on either gateway, before and after."""
    for node in ("gw1", "gw2"):
        rooms.python(node, SETTINGS, "clean()")
    yield rooms
    for node in ("gw1", "gw2"):
        rooms.python(node, SETTINGS, "clean()")


@contextmanager
def streaming(net: Rooms) -> Iterator[subprocess.Popen[str]]:
    """A stream over IPv4 and IPv6 from gw1's portals to ini1, under way until it is `enough`: the receiver."""
    for node in ("gw1", "ini1"):
        net.sh(node, f"rm -f {ENOUGH}")
    net.python("gw1", SETTINGS, "for a in P: network.add_address('storage-1', a); network.announce('storage-1', a)")
    with (
        net.background("gw1", "python3", "-u", "-", script=STREAM.format(bound=BOUND, enough=ENOUGH)) as server,
        ExitStack() as stack,
    ):
        assert server.stdout is not None
        assert server.stdout.readline() == server.stdout.readline() == "LISTENING\n"
        script = RECEIVER.format(bound=BOUND, enough=ENOUGH)
        receiver = stack.enter_context(net.background("ini1", "python3", "-", script=script))
        await_both(net)
        yield receiver
        for node in ("gw1", "ini1"):
            net.sh(node, f"touch {ENOUGH}")


def await_both(net: Rooms) -> None:
    """Wait until ini1 is connected over both families."""
    (peers,) = net.python(
        "gw1",
        SETTINGS,
        """
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = network.peers([Portal(a, 5000) for a in P])
            if all(found.values()): break
            time.sleep(0.05)
        say([[str(p.address), p.port] for ends in found.values() for p in ends])
        """,
    )
    assert [address for address, _ in peers] == ["10.77.1.61", "fd77:1::61"]


def enough(net: Rooms) -> None:
    """Tell the receiver to end."""
    net.sh("ini1", f"touch {ENOUGH}")


def end_of(receiver: subprocess.Popen[str]) -> dict[str, tuple[str, float, float]]:
    """What the receiver saw, once it has ended: per address the end, the longest gap, and the time since the last."""
    output, _ = receiver.communicate(timeout=2 * BOUND)
    return {address: tuple(seen) for address, seen in json.loads(output.splitlines()[-1]).items()}


def segments(sniffer: subprocess.Popen[str], *, until: float) -> list[float]:
    """When TCP segments were seen, until both families have sent after a moment or until the sniffer ends."""
    assert sniffer.stdout is not None
    times: list[float] = []
    again: set[str] = set()  # each connection's own timer sends first, seconds apart
    for moment, source, protocol in map(str.split, sniffer.stdout):
        if protocol == "6":
            times.append(float(moment))
            again |= {source} if times[-1] > until else set()
            if again == set(PORTALS):
                break
    return times


def test_not_one_packet_leaves_after_the_cut_and_the_stream_goes_on_after_it(net: Rooms) -> None:
    """Both families at once, established connections: silence without FIN or RST, then the same connections go on."""
    tap = net.lab.node("gw1").link("storage-1").tap
    listen = ["ip", "netns", "exec", net.lab.places.netns, sys.executable, "-", tap, str(BOUND), *PORTALS]
    with streaming(net) as receiver, net.here(listen, SNIFFER) as sniffer:
        (begun, done, seen, ended) = net.python(
            "gw1",
            SETTINGS,
            """
            time.sleep(1.5)
            say(time.time()); network.cut(P); say(time.time())
            say(sorted(map(str, network.observe_own().cuts)))
            time.sleep(4)
            say(time.time()); network.uncut(P)
            """,
        )
        times = segments(sniffer, until=ended)
        enough(net)
        found = end_of(receiver)
    assert seen == PORTALS
    assert any(moment < begun for moment in times)
    assert any(moment > ended for moment in times)
    # Host and node share the machine's clock; what was in the tap's queue when the rule came is given 50 ms.
    assert [moment for moment in times if done + 0.05 < moment < ended] == []
    for end, longest, since in found.values():
        assert end == "open"
        assert longest > 3.5
        assert since < 3


def test_ipv6_could_still_send_from_an_address_that_is_gone(net: Rooms) -> None:
    """After cut and removal the room names the IPv6 address whose connection lingers, and never an IPv4 one."""
    with streaming(net) as receiver:
        (lingering,) = net.python(
            "gw1",
            SETTINGS,
            "network.cut(P); network.remove_addresses(P); say(list(map(str, network.could_still_send(P))))",
        )
        enough(net)
        end_of(receiver)
    assert lingering == ["fd77:1::100"]


def test_a_nudge_makes_the_peer_let_go_of_its_old_connection(net: Rooms) -> None:
    """The address moves to gw2 without a word of gw1; one nudge, and both connections are reset within a second."""
    with streaming(net) as receiver:
        (peers,) = net.python(
            "gw1",
            SETTINGS,
            """
            found = network.peers([Portal(a, 5000) for a in P])
            network.cut(P); network.remove_addresses(P)
            say([[str(portal.address), str(p.address), p.port] for portal, ends in found.items() for p in ends])
            """,
        )
        net.python(
            "gw2",
            SETTINGS,
            f"""
            for a in P: network.add_address("storage-1", a); network.announce("storage-1", a)
            for own, peer, port in {peers!r}: network.nudge(Portal(A(own), 5000), network.Peer(A(peer), port))
            """,
        )
        found = end_of(receiver)
    assert {address: end for address, (end, _, _) in found.items()} == {
        "10.77.1.100": "ConnectionResetError",
        "fd77:1::100": "ConnectionResetError",
    }


def test_an_address_moves_with_its_announcement(net: Rooms) -> None:
    """The initiator's neighbour table follows the announcement alone, for both families."""
    say_hello = "ping -c1 -W2 10.77.1.100 >/dev/null; ping -c1 -W2 fd77:1::100 >/dev/null; true"
    for node in ("gw1", "gw2"):
        net.python(node, SETTINGS, "for a in P: network.add_address('storage-1', a); network.announce('storage-1', a)")
        mac = net.sh(node, "cat /sys/class/net/storage-1/address").strip()
        if node == "gw1":
            net.sh("ini1", say_hello)
            net.python("gw1", SETTINGS, "clean()")
        table = net.sh("ini1", "for a in 10.77.1.100 fd77:1::100; do ip neigh show $a dev storage-1; done").splitlines()
        assert len(table) == 2
        assert all(f"lladdr {mac}" in line for line in table)


def test_addresses_come_and_go_and_are_read_back(net: Rooms) -> None:
    """Adding and removing twice is as good as once; a foreign place is refused; the node's own address stays."""
    said = net.python(
        "gw1",
        SETTINGS,
        """
        from gateway.errors import Inconsistent, NotFound
        for a in P + P: network.add_address("storage-1", a)
        say({str(a): name for a, name in network.observe(settings, frozenset()).addresses.items()})
        for interface in ("storage-2", "no-such"):
            try: network.add_address(interface, P[1])
            except (Inconsistent, NotFound) as error: say(str(error))
        s = __import__("socket").create_connection(("fd77:1::12", 22), timeout=5)
        say(s.getsockname()[0]); s.close()
        network.remove_addresses(P); network.remove_addresses(P); network.remove_address(A("10.77.1.11"))
        view = network.observe(settings, frozenset())
        say([len(view.addresses), {str(k): [v.name, v.up, "10.77.1.11" in map(str, v.addresses)]
                                   for k, v in view.networks.items()}])
        """,
    )
    assert said[0] == {"10.77.1.100": "storage-1", "fd77:1::100": "storage-1"}
    assert "is on interface storage-1, not on storage-2" in said[1]
    assert "no interface no-such" in said[2]
    assert said[3] == "fd77:1::11"  # a portal address is never the source of the node's own connections
    assert said[4] == [0, {"storage-1": ["storage-1", True, True], "storage-2": ["storage-2", True, False]}]


def test_a_lost_carrier_is_seen_and_wakes(net: Rooms) -> None:
    """Carrier loss ends a wait and shows as an interface that is down, with its network still known."""
    watch = "from gateway.network import Changes\nwith Changes() as c: print('READY', flush=True); print(c.wait(30))"
    with net.background("gw1", "env", "PYTHONPATH=/run/rbdgate-rooms", "python3", "-c", watch) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "READY\n"
        try:
            net.lab.link("gw1", "storage-1", "down")
            assert watcher.communicate(timeout=60)[0] == "True\n"
            look = "say({str(k): v.up for k, v in network.observe(settings, frozenset()).networks.items()})"
            (seen,) = net.python("gw1", SETTINGS, look)
            assert seen == {"storage-1": False, "storage-2": True}
        finally:
            net.lab.link("gw1", "storage-1", "up")
    (quiet,) = net.python("gw1", "with network.Changes() as c: say(c.wait(0))")
    assert quiet is False


def test_two_thousand_addresses_are_cut_in_well_under_a_second(net: Rooms) -> None:
    """Cut, look, cut again and uncut of 1,000 IPv4 and 1,000 IPv6 addresses, all told back exactly."""
    (found,) = net.python(
        "gw1",
        SETTINGS,
        """
        many = [A("10.99.0.0") + i for i in range(1000)] + [A("fd99::") + i for i in range(1000)]
        found = {"cut": took(network.cut, many), "again": took(network.cut, many)}
        assert network.observe_own().cuts == frozenset(many)
        found |= {"look": took(network.observe_own), "uncut": took(network.uncut, many)}
        assert not network.observe_own().cuts
        network.uncut(many)
        say(found)
        """,
    )
    print({name: f"{1000 * seconds:.0f} ms" for name, seconds in found.items()})
    assert found["cut"] < 0.5
    assert sum(found.values()) < 2.0
