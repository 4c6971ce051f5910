"""The lab itself: what its commands do to real nodes, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import host, traces, tree
from tests.lab.cluster import Lab, NodeCommandFailed
from tests.lab.layout import ETCD_ADDRESSES, OSD_ADDRESSES, RUNS, LabError, LabUsage, Node, Role
from tests.lab.machine import State

COMMAND = Path(__file__).with_name("lab")
NAME = f"selftest-{os.getpid()}"  # two runs at once must not take each other's lab down
REACHED = {
    "etcd": ETCD_ADDRESSES[2],
    "ceph": OSD_ADDRESSES[1],
    "storage-1": "fd77:1::61",
    "storage-2": "10.77.2.61",
}
CLOCKS = """
import time
def clocks():
    return [time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic(), time.time()]
before, jump = clocks(), [0, 0, 0]
print("ready", flush=True)
while max(jump) < 2:
    time.sleep(0.1)
    now = clocks()
    jump, before = [a - b for a, b in zip(now, before)], now
print(*jump)
"""


def lab_command(*words: str, name: str = NAME, **more: object) -> subprocess.CompletedProcess[str]:
    """Run the lab's command as a script does."""
    end = words.index("--") if "--" in words else len(words)
    command = [str(COMMAND), *words[:end], "--name", name, *words[end:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **more)  # type: ignore[call-overload, no-any-return] # keywords of run, passed on


def take_down_orphans() -> None:
    """Take down the labs of earlier runs that were killed."""
    for run in [*RUNS.glob("selftest-*"), *RUNS.glob("other-*")]:
        if not Path("/proc", run.name.rpartition("-")[2]).exists():
            lab_command("down", name=run.name)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A bare lab of one gateway and one initiator, made by the command."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    take_down_orphans()
    try:
        made = lab_command("up", "--bare", "--gateways", "1", "--initiators", "1")
        assert made.returncode == 0, made.stderr
        yield Lab(NAME)
    finally:
        lab_command("down")


@pytest.fixture
def other() -> Iterator[str]:
    """The name of a second lab, which is taken down afterwards whatever became of it."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    name = f"other-{os.getpid()}"
    yield name
    lab_command("down", name=name)


def test_a_machine_that_cannot_run_a_lab_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, or without a package, `up` names what is missing and ends with 2."""
    done = lab_command("up", env={"PATH": "/nonexistent"})
    assert done.returncode == 2
    assert "root" in done.stderr or "apt-get install" in done.stderr
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabUsage, match="must run as root"):
        host.check()


def test_wrong_words_end_with_2(lab: Lab) -> None:
    """A node, network, lab or command line that does not exist is wrong usage, and the text names what there is."""
    for words in (
        ["exec", "gw9", "--", "true"],
        ["exec", "gw1"],
        ["link", "gw1", "mgmt", "down"],
        ["osd", "7", "kill"],
    ):
        assert lab_command(*words).returncode == 2, words
    assert "gw1, ini1" in lab_command("crash", "gw9").stderr
    assert lab_command("status", name="no-such-lab").returncode == 2
    assert lab_command("status", name="No Lab").returncode == 2


def test_names_and_addresses_fit(lab: Lab) -> None:
    """The last possible nodes have interface names that the kernel takes and addresses of their own."""
    links = [link for role, last in ((Role.GATEWAY, 50), (Role.INITIATOR, 39)) for link in Node(role, last).links]
    assert all(len(link.tap) <= 15 for link in links)
    assert len({link.v4 for link in links}) == len(links)
    with pytest.raises(ValueError, match="from 1 to 50"):
        Node(Role.GATEWAY, 51)


def test_a_command_in_a_node_is_like_one_here(lab: Lab) -> None:
    """`exec` passes words unchanged, and input, both outputs and the exit status."""
    done = lab_command("exec", "gw1", "--", "sh", "-c", 'cat; echo "$0|$1" >&2; exit 7', "a b", "$c'*", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "a b|$c'*\n")
    with pytest.raises(NodeCommandFailed, match="ended with 3: no"):
        lab.exec("gw1", "sh", "-c", "echo no; exit 3")
    assert lab.exec("gw1", "false", check=False).returncode == 1


def test_a_command_that_takes_too_long_is_ended(lab: Lab) -> None:
    """With `--timeout`, `exec` ends with 124, as timeout(1) does, and the command in the node is ended too."""
    began = time.monotonic()
    assert lab_command("exec", "gw1", "--timeout", "1", "--", "sleep", "31").returncode == 124
    assert time.monotonic() - began < 4
    assert lab.exec("gw1", "pgrep", "-f", "sleep 3[1]", check=False).stdout == ""


@pytest.mark.full
def test_large_input_comes_through(lab: Lab, tmp_path: Path) -> None:
    """20 MB through a node and back are the same bytes, in seconds: no large frame is lost on the way."""
    data = os.urandom(20_000_000)
    began = time.monotonic()
    done = subprocess.run(lab.exec_command("gw1", "cat"), input=data, capture_output=True, timeout=60, check=True)
    assert done.stdout == data
    assert time.monotonic() - began < 20


def test_a_gateway_is_what_an_operator_would_set_up(lab: Lab) -> None:
    """systemd is up with nothing failed; Ceph and etcd answer with the gateway's own user; no initiator runs there."""
    assert lab.exec("gw1", "systemctl", "is-system-running").stdout.strip() == "running"
    script = """
import rados
keyring = "/etc/ceph/ceph.client.rbdgate.keyring"
with rados.Rados(conffile="/etc/ceph/ceph.conf", name="client.rbdgate", conf={"keyring": keyring}) as cluster:
    print(sorted(cluster.list_pools()))
"""
    assert "['rbd', 'rbd2']" in lab.exec("gw1", "/opt/rbdgate/bin/python", "-", input=script).stdout
    health = "import urllib.request; print(urllib.request.urlopen('http://10.77.0.11:2379/health').read().decode())"
    assert '"true"' in lab.exec("gw1", "python3", "-c", health).stdout
    assert lab.exec("gw1", "find", "/etc/ceph", "-name", "*admin*").stdout == ""
    assert lab.exec("gw1", "pgrep", "-l", "iscsid|multipathd", check=False).stdout == ""
    loaded = lab.exec("gw1", "lsmod").stdout
    assert all(
        module in loaded for module in ("rbd ", "target_core_iblock ", "iscsi_target_mod ", "tcm_loop ", "fuse ")
    )
    assert lab.exec("gw1", "cat", "/sys/kernel/config/target/dbroot").stdout.strip() == "/etc/target"


def test_an_initiator_has_debians_own_settings(lab: Lab) -> None:
    """iscsid and multipathd run, the node has its own IQN, the tools are there, and iscsid.conf is Debian's."""
    services = lab.exec("ini1", "systemctl", "is-active", "iscsid", "multipathd").stdout.split()
    assert services == ["active", "active"]
    name = lab.exec("ini1", "cat", "/etc/iscsi/initiatorname.iscsi").stdout
    assert name == "InitiatorName=iqn.2026-11.io.rbdgate:ini1\n"
    for tool in ("iscsiadm", "multipath", "mpathpersist", "sg_persist", "iscsi-test-cu"):
        lab.exec("ini1", "which", tool)
    assert "iscsid.conf" not in lab.exec("ini1", "dpkg", "--verify", "open-iscsi", check=False).stdout
    assert lab.exec("ini1", "multipath", "-T").stderr == ""


@pytest.mark.full
def test_only_the_storage_interface_answers_for_its_address(lab: Lab) -> None:
    """Initiators learn one hardware address for a gateway's storage address, and it is the storage interface's."""
    script = (
        "for n in 1 2 3 4 5; do ip neigh flush dev storage-1; ping -c 1 -W 2 10.77.1.11; ip neigh show 10.77.1.11; done"
    )
    said = lab.exec("ini1", "sh", "-c", script).stdout
    own = lab.exec("gw1", "cat", "/sys/class/net/storage-1/address").stdout.strip()
    learnt = [line.split()[4] for line in said.splitlines() if "lladdr" in line]
    assert learnt == [own] * 5


def reaches(lab: Lab, address: str, node: str = "gw1") -> bool:
    """Whether a packet from the node to that address is answered; one may be lost on a busy machine."""
    return lab.exec(node, "ping", "-c", "3", "-i", "0.3", "-W", "2", address, check=False).returncode == 0


@pytest.mark.parametrize("what", [*REACHED, "all"])
def test_a_cut_drops_what_it_names_and_nothing_else(lab: Lab, what: str) -> None:
    """Cut off from one part, a node reaches every other; `heal` gives it back, and `exec` works throughout."""
    assert lab_command("cut", "gw1", what).returncode == 0
    try:
        reached = {part for part, address in REACHED.items() if reaches(lab, address)}
        status = json.loads(lab_command("status", "--json").stdout)
        assert reached == (set() if what == "all" else set(REACHED) - {what})
        assert status["nodes"][0] == {"name": "gw1", "state": "running", "cuts": [what]}
    finally:
        assert lab_command("heal", "gw1").returncode == 0
    assert all(reaches(lab, address) for address in REACHED.values())


@pytest.mark.full
def test_a_pulled_cable_is_seen_by_the_nodes_kernel(lab: Lab) -> None:
    """The interface that bears the address loses its carrier, nobody answers for it, and `heal` plugs it in again."""
    assert reaches(lab, "10.77.1.11", "ini1")
    carrier = ("cat", "/sys/class/net/storage-1/carrier")
    assert lab_command("link", "gw1", "storage-1", "down").returncode == 0
    assert lab.exec("gw1", *carrier).stdout == "0\n"
    assert not reaches(lab, "10.77.1.61")
    assert not any(reaches(lab, address, "ini1") for address in ("10.77.1.11", "fd77:1::11"))
    lab.heal("gw1")
    assert lab.exec("gw1", *carrier).stdout == "1\n"
    assert reaches(lab, "10.77.1.61")


def test_a_paused_node_wakes_up_later_on_every_clock(lab: Lab) -> None:
    """While it is frozen nothing answers; then CLOCK_BOOTTIME, CLOCK_MONOTONIC and the wall clock have all gone on."""
    command = lab.exec_command("gw1", "python3", "-")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdin is not None
        assert watching.stdout is not None
        watching.stdin.write(CLOCKS)
        watching.stdin.close()
        assert watching.stdout.readline() == "ready\n"
        lab.pause("gw1")
        try:
            assert lab.state("gw1") is State.PAUSED
            with pytest.raises(LabError, match="took longer"):
                lab.exec("gw1", "true", timeout=4.0)
        finally:
            lab.resume("gw1")
        jumps = [float(jump) for jump in watching.stdout.readline().split()]
    assert all(3.5 < jump < 20 for jump in jumps), jumps
    assert lab.state("gw1") is State.RUNNING


@pytest.mark.full
def test_a_power_cut_takes_memory_and_leaves_the_disk(lab: Lab) -> None:
    """After `crash` and `boot` a synced file is there, /run is new, and the console has both boots."""
    lab.exec("gw1", "sh", "-c", "echo kept > /var/kept; sync; echo gone > /run/gone")
    boot = lab.exec("gw1", "cat", "/proc/sys/kernel/random/boot_id").stdout
    assert lab_command("crash", "gw1").returncode == 0
    assert lab.state("gw1") is State.OFF
    assert lab_command("exec", "gw1", "--", "true").returncode == 1
    assert lab_command("boot", "gw1").returncode == 0
    assert lab.exec("gw1", "cat", "/var/kept").stdout == "kept\n"
    assert lab.exec("gw1", "test", "-e", "/run/gone", check=False).returncode == 1
    assert lab.exec("gw1", "cat", "/proc/sys/kernel/random/boot_id").stdout != boot
    assert lab_command("boot", "gw1").returncode == 1
    assert lab.logs("gw1").count("Reached target multi-user.target") == 2
    assert "journal of gw1" in lab_command("logs", "gw1").stdout


def backends_once(name: str, state: str) -> dict[str, str]:
    """The states of etcd and Ceph as `status` shows them, once that one has that state (a signal takes a moment)."""
    deadline = time.monotonic() + 5.0
    while True:
        shown = json.loads(lab_command("status", "--json").stdout)["backends"]
        states = {each["name"]: each["state"] for each in shown}
        if states[name] == state or time.monotonic() > deadline:
            return states


@pytest.mark.full
@pytest.mark.parametrize(("kind", "number", "name"), [("osd", "1", "osd.1"), ("etcd", "2", "etcd-2")])
def test_osds_and_etcd_members_can_be_hurt(lab: Lab, kind: str, number: str, name: str) -> None:
    """Each of stop, cont, kill and start shows in `status`, and the others go on."""
    for to, state in (("stop", "paused"), ("cont", "running"), ("kill", "off"), ("start", "running")):
        assert lab_command(kind, number, to).returncode == 0
        states = backends_once(name, state)
        assert states.pop(name) == state
        assert set(states.values()) == {"running"}


@pytest.mark.full
def test_two_labs_do_not_know_of_each_other(lab: Lab, other: str) -> None:
    """A second lab with the same node names comes and goes, and the first one's node keeps running."""
    boot = lab.exec("gw1", "cat", "/proc/sys/kernel/random/boot_id").stdout
    made = lab_command("up", "--bare", "--gateways", "1", "--initiators", "0", name=other)
    assert made.returncode == 0, made.stderr
    assert Lab(other).exec("gw1", "cat", "/proc/sys/kernel/random/boot_id").stdout != boot
    again = lab_command("up", "--bare", name=other)
    assert again.returncode == 1
    assert "is up already" in again.stderr
    assert lab_command("down", name=other).returncode == 0
    assert traces.of(other) == []
    assert lab.exec("gw1", "cat", "/proc/sys/kernel/random/boot_id").stdout == boot


@pytest.mark.full
@pytest.mark.parametrize("seconds", [0.15, 0.4, 1.0, 2.0, 4.0, 8.0])
def test_down_cleans_up_after_an_up_that_was_killed(other: str, seconds: float) -> None:
    """Whenever `up` is killed with SIGKILL, a second `up` refuses with the reason and `down` leaves nothing."""
    making = subprocess.Popen(
        [str(COMMAND), "up", "--bare", "--gateways", "2", "--initiators", "0", "--name", other],
        stderr=subprocess.DEVNULL,
    )
    try:
        making.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        making.kill()
    making.wait()
    if traces.of(other):
        refused = lab_command("up", "--bare", name=other)
        assert refused.returncode == 1
        assert "is there in part" in refused.stderr or "is up already" in refused.stderr
    assert lab_command("down", name=other).returncode == 0
    assert traces.of(other) == []


@pytest.mark.full
def test_down_cleans_up_after_nodes_that_were_killed(other: str) -> None:
    """When a node's main process alone was killed, and another node is frozen, `down` ends all of both."""
    assert lab_command("up", "--bare", "--gateways", "2", "--initiators", "0", name=other).returncode == 0
    lab = Lab(other)
    os.kill(json.loads((lab.places.run / "gw1.pid").read_text())[0], signal.SIGKILL)
    lab.pause("gw2")
    assert lab.state("gw2") is State.PAUSED
    assert traces.of(other) != []
    assert lab_command("down", name=other).returncode == 0
    assert traces.of(other) == []


def test_a_tree_that_was_not_finished_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that fails leaves no tree, and the next one starts from nothing; a finished one is not built again."""
    monkeypatch.setattr(tree, "CACHE", tmp_path)
    recipe = tree.Recipe(("systemd",), ("tenacity",), "6.1")
    seen = []

    def fail(_: tree.Recipe, place: Path) -> None:
        place.mkdir()
        (place / "half").touch()
        raise LabError("the network is down")

    def succeed(_: tree.Recipe, place: Path) -> None:
        place.mkdir()
        seen.append(place)

    monkeypatch.setattr(tree, "_build", fail)
    with pytest.raises(LabError, match="network is down"):
        tree.ready(recipe, lambda _: None)
    assert not (tmp_path / recipe.digest).exists()
    monkeypatch.setattr(tree, "_build", succeed)
    for _ in range(2):
        assert list(tree.ready(recipe, lambda _: None).iterdir()) == []
    assert len(seen) == 1
