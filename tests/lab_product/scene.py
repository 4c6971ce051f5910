"""A lab with something happening on it: the operator's command line, and the initiator that uses a disk.

Standard library only: the demo runs under Debian's own Python.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.lab.ceph import CephCluster
from tests.lab.cluster import Lab
from tests.lab.etcd import EtcdCluster
from tests.lab.layout import LabError
from tests.lab.making import ceph_of, etcd_of
from tests.lab_product.waiting import until

SERVED_WITHIN = 90.0  # seconds from `create` to serving on nodes whose system calls cost 0.2 ms
PREFIX = "/rbdgate/default/"  # the lab's cluster in etcd
SESSION_EXISTS = 15  # iscsiadm's exit status for a login that was done before (ISCSI_ERR_SESS_EXISTS)
NEXT = "0.1.1.dev1"  # the version an upgrade is tried with
DEVICE_WITHIN = 60.0  # seconds from login to the multipath device


class Refused(AssertionError):
    """A command that should have gone through did not; the message has what it printed."""


@dataclass(frozen=True)
class Disk:
    """An image as the initiator sees it; `device` is the multipath device."""

    image: str
    iqn: str
    device: str


@dataclass(frozen=True)
class Claimed:
    """One claim as etcd has it: the image's uid, who holds it, and its create revision."""

    uid: str
    node: str
    token: int


class Scene:
    """The lab's operator, who works on `gw1` unless it is down, and its initiators."""

    def __init__(self, lab: Lab, gateways: tuple[str, ...] = ("gw1", "gw2", "gw3")) -> None:
        self.lab = lab
        self.gateways = gateways
        self.front = gateways[0]
        self.unfenced_on_purpose: set[str] = set()

    @property
    def ceph(self) -> CephCluster:
        """The lab's Ceph, with its administrator's key: what no gateway has."""
        return ceph_of(self.lab.places)

    @property
    def etcd(self) -> EtcdCluster:
        """The lab's etcd."""
        return etcd_of(self.lab.places)

    def run(self, node: str, *command: str, within: float = 60, check: bool = True) -> str:
        """Run a command on a node and return its standard output."""
        done = self.lab.exec(node, *command, timeout=within, check=False)
        if check and done.returncode:
            raise Refused(f"{node}: {' '.join(command)}: exit status {done.returncode}: {done.stderr}{done.stdout}")
        return str(done.stdout)

    def shell(self, node: str, script: str, within: float = 60, *, check: bool = True) -> str:
        """Run a line of shell on a node and return its standard output."""
        return self.run(node, "sh", "-c", script, within=within, check=check)

    def put(self, node: str, path: str, content: bytes) -> None:
        """Write a file on a node."""
        encoded = b64encode(content).decode()  # what goes into a node is text
        self.lab.exec(node, "sh", "-c", f"base64 -d > {path}", input=encoded, timeout=60)

    def rbdgate(self, *arguments: str, within: float = 120) -> Any:
        """Run `rbdgate ... --json` on the front node and return what it printed; Refused if it failed."""
        said = self.run(self.front, "rbdgate", *arguments, "--json", within=within)
        return json.loads(said) if said.strip() else None

    def try_rbdgate(self, *arguments: str, within: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `rbdgate ...` on the front node and return how it ended."""
        return self.lab.exec(self.front, "rbdgate", *arguments, timeout=within, check=False)

    def image(self, name: str) -> dict[str, Any]:
        """The image as `image show` prints it."""
        shown: dict[str, Any] = self.rbdgate("image", "show", name)
        return shown

    def holder(self, name: str) -> str:
        """Who holds the image now; raises if nobody does."""
        holder = self.claimant(name)
        if not holder:
            raise Refused(f"{name} has no holder: {self.image(name)['reason']}")
        return holder

    def claimant(self, name: str) -> str | None:
        """Who has the image's claim now, read from etcd itself; None if nobody has."""
        uid = self.spec(name)["uid"]
        return next((claim.node for claim in self.claims() if claim.uid == uid), None)

    def create(self, name: str, *, size: str = "1G", paths: int = 2, initiator: str = "ini1") -> dict[str, Any]:
        """Create an image that the initiator may use, and return when all its paths are up."""
        self.rbdgate("image", "create", name, "--size", size, "--paths", str(paths))
        self.rbdgate("initiator", "allow", name, self.initiator_name(initiator))
        return self.wait_serving(name)

    def wait_serving(self, name: str, *, by: str | None = None, within: float = SERVED_WITHIN) -> dict[str, Any]:
        """The image once it is served on all paths (by that node, if one is named)."""

        def served() -> dict[str, Any] | None:
            image = self.image(name)
            good = image["state"] == "serving" and (by is None or image["holder"] == by)
            return image if good else None

        return until(f"{name} is served" + (f" by {by}" if by else ""), served, within=within)

    def initiator_name(self, node: str) -> str:
        """The initiator's own IQN."""
        text = self.run(node, "cat", "/etc/iscsi/initiatorname.iscsi")
        return str(re.findall(r"^InitiatorName=(\S+)", text, re.MULTILINE)[0])

    def log_in(self, name: str, initiator: str = "ini1") -> Disk:
        """Discover and log in on every path of the image, and return its multipath device."""
        image = self.image(name)
        for path in image["paths"]:
            host = f"[{path['address']}]" if ":" in path["address"] else path["address"]
            portal = f"{host}:{path['port']}"
            self.run(initiator, "iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", portal, "-I", "default")
        login = ("iscsiadm", "-m", "node", "-T", image["iqn"], "--login")
        done = self.lab.exec(initiator, *login, timeout=120, check=False)
        if done.returncode not in (0, SESSION_EXISTS):
            raise Refused(f"{initiator}: {' '.join(login)}: exit status {done.returncode}: {done.stderr}")
        wwid = wwid_of(str(image["serial"]))
        device = until(
            f"a multipath device {wwid} with {len(image['paths'])} paths",
            lambda: self._multipath(initiator, wwid, len(image["paths"])),
            within=DEVICE_WITHIN,
        )
        return Disk(name, str(image["iqn"]), device)

    def log_out(self, name: str, initiator: str = "ini1") -> None:
        """End the initiator's sessions with the image and forget its portals; its multipath device goes first."""
        image = self.image(name)
        self.run(initiator, "multipath", "-f", wwid_of(str(image["serial"])), check=False)
        for last in ("--logout", "--op=delete"):
            self.run(initiator, "iscsiadm", "-m", "node", "-T", image["iqn"], last, check=False)

    def _multipath(self, initiator: str, wwid: str, paths: int) -> str | None:
        maps = self.run(initiator, "multipathd", "show", "maps", "raw", "format", "%w %n %N", check=False)
        for line in maps.splitlines():
            words = line.split()
            if len(words) == 3 and words[0] == wwid and words[2] == str(paths):
                return f"/dev/mapper/{words[1]}"
        return None

    def paths_up(self, name: str, initiator: str = "ini1") -> int:
        """How many of the image's paths the initiator's kernel and multipath call good."""
        wwid = wwid_of(str(self.spec(name)["identity"]["serial"]))
        paths = self.run(initiator, "multipathd", "show", "paths", "raw", "format", "%w %t %T", check=False)
        return sum(line.split()[:2] == [wwid, "active"] for line in paths.splitlines())

    def sessions(self, initiator: str = "ini1") -> str:
        """The initiator's sessions as the kernel numbers them, with their targets: unchanged if none was renewed."""
        return self.shell(
            initiator,
            "for s in /sys/class/iscsi_session/session*; do"
            ' echo "${s##*/} $(cat $s/targetname) $(cat $s/tpgt) $(cat $s/creator 2>/dev/null)"; done',
        )

    def target_sessions(self, node: str) -> str:
        """The sessions as the target's kernel on that gateway numbers them: a renewed one has another number."""
        return self.shell(node, "cat /sys/kernel/config/target/iscsi/iqn*/tpgt_*/acls/*/info 2>/dev/null | grep -a SID")

    def agent_pid(self, node: str) -> str:
        """The agent's pid on that node; "0" while there is none."""
        return self.run(node, "systemctl", "show", "--property=MainPID", "--value", "rbdgate-agent.service").strip()

    def kill_agent(self, node: str) -> None:
        """Kill the agent with SIGKILL, and return when systemd has started its successor."""
        before = self.agent_pid(node)
        self.run(node, "systemctl", "kill", "--signal=KILL", "--kill-who=main", "rbdgate-agent.service")
        until("a new agent", lambda: self.agent_pid(node) not in ("0", before), within=60)

    def upgrade(self, node: str, wheel: Path) -> None:
        """Install a wheel on a gateway as an administrator would, and restart its agent."""
        self.lab.install(node, wheel)
        self.run(node, "systemctl", "restart", "rbdgate-agent.service", within=120)

    def is_withdrawn(self, node: str, iqn: str) -> bool:
        """Whether the node has neither an enabled portal of the target nor a portal address any more."""
        script = f"cat /sys/kernel/config/target/iscsi/{iqn}/tpgt_*/enable 2>/dev/null | grep -q 1 && echo enabled"
        return self.is_silent(node) and "enabled" not in self.shell(node, f"{script}; true")

    def is_silent(self, node: str) -> bool:
        """Whether the node has no portal address any more; what hangs in its kernel does not matter."""
        found = self.shell(
            node, "ip -o address show | grep -oE '10\\.77\\.[12]\\.1[0-9][0-9]/'; echo looked", check=False
        )
        return found.split() == ["looked"]

    def others(self, node: str) -> list[str]:
        """The gateways but that one."""
        return [other for other in self.gateways if other != node]

    def move(self, name: str, to: str) -> None:
        """Have that node serve the image, unless it does, and return when it is served whole there."""
        if self.claimant(name) != to:
            self.rbdgate("image", "move", name, "--to", to)
        self.wait_serving(name, by=to)

    def wait_taken_over(self, name: str, former: str, *, within: float = 60) -> str:
        """Who holds the image once another node than the former one holds it and serves it whole."""
        until(
            f"another gateway than {former} holds {name}",
            lambda: self.claimant(name) not in (None, former),
            within=within,
        )
        return str(self.wait_serving(name)["holder"])

    def wait_live(self, *nodes: str, within: float = 90) -> None:
        """Return when these gateways (all of them, if none is named) are live."""
        wanted = nodes or self.gateways
        until(f"{', '.join(wanted)} live", lambda: self.live() >= set(wanted), within=within)

    def kernel_log(self, node: str, since: int = 0) -> list[str]:
        """The node's kernel messages from line `since` on."""
        return self.run(node, "dmesg").splitlines()[since:]

    def rbd(self, *arguments: str) -> None:
        """Run Debian's `rbd` as the administrator of the lab's Ceph, as somebody outside of rbdgate would."""
        self.ceph.rbd(*arguments)

    def lift_fences(self, instances: set[str]) -> None:
        """Take these off Ceph's blocklist, against all advice, and return when the OSD of the pool `rbd` knows."""
        lift = [{"prefix": "osd blocklist", "blocklistop": "rm", "addr": address} for address in sorted(instances)]
        self.ceph.commands(*lift)
        self.unfenced_on_purpose |= instances
        # An OSD hears of a new map when it is told, or with the next operation of a client that has it.
        self.rbd("ls", "rbd")

    def claims(self) -> frozenset[Claimed]:
        """Every claim there is now, read from etcd itself."""
        done = self.etcd.etcdctl("get", "--prefix", f"{PREFIX}claims/", "--write-out=json")
        if done.returncode:
            raise Refused(f"etcd did not tell the claims: {done.stderr}")
        return frozenset(map(_claimed, json.loads(done.stdout).get("kvs", ())))

    def live(self) -> set[str]:
        """The gateways with a sign of life, read from etcd itself."""
        return {key.rpartition("/")[2] for key in self.keys("live/")}

    def instances(self, node: str) -> set[str]:
        """The client instances a live node says it has, read from etcd itself."""
        words = json.loads(self.etcd.etcdctl("get", "--print-value-only", f"{PREFIX}live/{node}").stdout)
        return set(words["instances"])

    def recorded(self, node: str) -> set[str]:
        """The client instances of the node that may have an image open, as etcd has them on record."""
        said = self.etcd.etcdctl("get", "--prefix", "--print-value-only", f"{PREFIX}records/").stdout
        records = [json.loads(line) for line in said.splitlines() if line.strip()]
        return {record["instance"] for record in records if record["node"] == node}

    def spec(self, name: str) -> dict[str, Any]:
        """The image as its spec in etcd has it: a look of milliseconds, where the command takes seconds on a node."""
        found = self.etcd.etcdctl("get", "--print-value-only", f"{PREFIX}images/{name}").stdout
        if not found:
            raise Refused(f"etcd has no image {name}")
        spec: dict[str, Any] = json.loads(found)
        return spec

    def fenced(self) -> set[str]:
        """The client instances that etcd has a fence of on record."""
        return {unquote(key.removeprefix(f"{PREFIX}fences/")) for key in self.keys("fences/")}

    def image_names(self) -> set[str]:
        """Every image that etcd has a spec of, read from etcd itself."""
        return {key.removeprefix(f"{PREFIX}images/") for key in self.keys("images/")}

    def keys(self, folder: str) -> list[str]:
        """The keys in a folder of the cluster's prefix, read from etcd itself."""
        done = self.etcd.etcdctl("get", "--prefix", f"{PREFIX}{folder}", "--keys-only")
        if done.returncode:
            raise Refused(f"etcd did not tell the keys of {folder}: {done.stderr}")
        return done.stdout.split()

    def revision(self) -> int:
        """Etcd's revision now."""
        done = self.etcd.etcdctl("get", f"{PREFIX}settings", "--write-out=json")
        if done.returncode:
            raise Refused(f"etcd did not tell its revision: {done.stderr}")
        return int(json.loads(done.stdout)["header"]["revision"])

    def claimed_since(self, revision: int) -> list[str]:
        """The uids of all claims made after that revision, in order: an image that flaps is in it again and again."""
        folder = f"{PREFIX}claims/"
        events = self.etcd.history(folder, revision + 1)
        return [key.removeprefix(folder) for kind, key in events if kind == "PUT"]

    def blocklist(self) -> dict[str, str]:
        """Ceph's blocklist: each instance with when its entry ends."""
        (answer,) = self.ceph.commands({"prefix": "osd blocklist ls", "format": "json"})
        entries, _ = json.JSONDecoder().raw_decode(answer)  # a second, empty list of ranges follows it
        return {entry["addr"]: entry["until"] for entry in entries}


def _claimed(entry: dict[str, Any]) -> Claimed:
    uid = b64decode(entry["key"]).decode().rpartition("/")[2]
    return Claimed(uid, str(json.loads(b64decode(entry["value"]))["node"]), int(entry["create_revision"]))


def wwid_of(serial: str) -> str:
    """How dm-multipath names LIO's disk of that unit serial: NAA 6, IEEE id 001405, 25 hex digits of the serial."""
    return "36001405" + re.sub(r"[^0-9a-f]", "", serial.lower())[:25].ljust(25, "0")


def keep_logs(lab: Lab) -> Path:
    """Copy what every node of a lab printed (its kernel's console and its journal) to where `down` does not look."""
    place = Path(tempfile.mkdtemp(prefix=f"rbdgate-{lab.name}-logs-"))
    for node in lab.nodes:
        with suppress(LabError):  # a console has all boots and no times, a journal has times and this boot
            said = lab.exec(node.name, "journalctl", "--output=short-iso-precise", timeout=60, check=False).stdout
            (place / f"{node.name}.journal").write_text(said)
    for console in (lab.places.data / "log").glob("*.console"):
        shutil.copy(console, place)
    return place
