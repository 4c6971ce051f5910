"""CHAP, groups and discovery on the whole cluster, before and after a move; and no secret anywhere it could be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.lab_product.conftest import recover
from tests.lab_product.scene import Scene
from tests.lab_product.waiting import until

pytestmark = pytest.mark.full

MINE, THEIRS = "rbd/access-mine", "rbd/access-theirs"
REFUSED, MUTUAL_REFUSED = 24, 19  # open-iscsi's login failures: the target refuses us; we refuse what the target says
SECRETS = {"one": "first-secret-1", "two": "second-secret2", "own": "targets-secret", "all": "discover-all-1"}
KEY = "/etc/rbdgate/secrets.key"
TREE = "/sys/kernel/config/target/iscsi"


@dataclass
class Host:
    """One initiator's name on ini1, as an interface of open-iscsi's: it has its own records."""

    scene: Scene
    name: str
    iqn: str
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The images it asked for: target and portals are for good, and a question costs seconds on a gateway here."""

    def __post_init__(self) -> None:
        self.sh(f"iscsiadm -m iface -I {self.name} -o new")
        self.sh(f"iscsiadm -m iface -I {self.name} -o update -n iface.initiatorname -v {self.iqn}")

    def sh(self, script: str) -> str:
        """Run a line of shell on the initiator; its output, errors among it."""
        return self.scene.shell("ini1", f"({script}) 2>&1", check=False)

    def sees(self, image: str) -> set[str]:
        """The targets that discovery lists at the image's first portal, asked without credentials."""
        said = self.sh(f"iscsiadm -m discovery -t st -p {self._portal(image)} -I {self.name} -o nonpersistent")
        return {line.split()[-1] for line in said.splitlines() if " iqn." in line}

    def sees_as(self, image: str, user: str, secret: str) -> set[str]:
        """The same with credentials."""
        record = f"iscsiadm -m discoverydb -t st -p {self._portal(image)} -I {self.name}"
        settings = {"authmethod": "CHAP", "username": user, "password": secret}
        self.sh(f"{record} -o new")
        for name, value in settings.items():
            self.sh(f"{record} -o update -n discovery.sendtargets.auth.{name} -v {value}")
        said = self.sh(f"{record} --discover -o nonpersistent")
        self.sh(f"{record} -o delete")
        return {line.split()[-1] for line in said.splitlines() if " iqn." in line}

    def login(self, image: str, user: str = "", secret: str = "", target: str = "", target_secret: str = "") -> int:
        """Try to log in at the image's first portal and out again; open-iscsi's exit status."""
        node = f"iscsiadm -m node -T {self.target(image)} -p {self._portal(image)} -I {self.name}"
        settings = {"authmethod": "CHAP" if user else "None", "username": user, "password": secret}
        settings |= {"username_in": target, "password_in": target_secret}
        self.sh(f"{node} -o new")
        for name, value in settings.items():
            if value:
                self.sh(f"{node} -o update -n node.session.auth.{name} -v {value}")
        status = int(self.sh(f"{node} -l >/dev/null; echo $?").split()[-1])
        self.sh(f"{node} -u; {node} -o delete")
        return status

    def target(self, image: str) -> str:
        """The image's target name."""
        return str(self._image(image)["iqn"])

    def _portal(self, image: str) -> str:
        return str(self._image(image)["paths"][0]["address"])

    def _image(self, image: str) -> dict[str, Any]:
        if image not in self.known:
            self.known[image] = self.scene.image(image)
        return self.known[image]


@dataclass
class Stage:
    """Two images of two initiators; `heard` is all that the operator's commands printed."""

    scene: Scene
    mine: Host
    theirs: Host
    heard: str = ""

    def rbdgate(self, *words: str, status: int = 0, node: str = "") -> str:
        """Run a command, with and after its exit status."""
        done = self.scene.lab.exec(node or self.scene.front, "rbdgate", *words, timeout=120, check=False)
        self.heard += done.stdout + done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return str(done.stdout + done.stderr)

    def chap(self, host: Host, user: str, secret: str, *mutual: str) -> None:
        """Set an initiator's credentials from files."""
        words = ["--mutual-user", mutual[0], "--mutual-secret-file", f"/root/{mutual[1]}"] if mutual else []
        self.rbdgate("initiator", "chap", "set", host.iqn, "--user", user, "--secret-file", f"/root/{secret}", *words)


@pytest.fixture(name="built", scope="module")
def _built(scene: Scene) -> Iterator[Stage]:
    """`mine` may use one image and the group of `theirs` the other; every secret is in a file on the front node."""
    mine, theirs = (Host(scene, name, f"iqn.2026-11.io.rbdgate:{name}") for name in ("mine", "theirs"))
    found = Stage(scene, mine, theirs)
    for name, secret in SECRETS.items():
        scene.put(scene.front, f"/root/{name}", f"{secret}\n".encode())
        scene.shell(scene.front, f"chmod 600 /root/{name}")
    for image in (MINE, THEIRS):
        found.rbdgate("image", "create", image, "--size", "64M", "--paths", "1")
    found.rbdgate("initiator", "allow", MINE, mine.iqn)
    found.rbdgate("initiator", "group", "create", "them", theirs.iqn)
    found.rbdgate("initiator", "allow", THEIRS, "--group", "them")
    yield found
    for image in (MINE, THEIRS):
        scene.try_rbdgate("image", "delete", image)
    scene.try_rbdgate("initiator", "group", "delete", "them")
    for host in (mine, theirs):
        host.sh(f"iscsiadm -m iface -I {host.name} -o delete")
    scene.shell(scene.front, "rm -f " + " ".join(f"/root/{name}" for name in SECRETS))


@pytest.fixture
def stage(built: Stage) -> Iterator[Stage]:
    """The stage with no credentials set and nothing heard yet."""
    built.heard = ""
    yield built
    built.scene.try_rbdgate("cluster", "discovery-auth", "clear")
    for host in (built.mine, built.theirs):
        built.scene.try_rbdgate("initiator", "chap", "clear", host.iqn)
    recover(built.scene)


def test_each_sees_and_reaches_its_own_with_its_own_secret(stage: Stage) -> None:
    """One initiator does not see or reach another's image; each secret works for whom it was set, as long as it is the
    one that was set last; all the same after a move; and with a gateway that has no key, it is not moved there."""
    scene, mine, theirs = stage.scene, stage.mine, stage.theirs
    stage.chap(mine, "me", "one", "us", "own")
    stage.chap(theirs, "they", "two")

    def isolated() -> None:
        for host, own, other in ((mine, MINE, THEIRS), (theirs, THEIRS, MINE)):
            assert host.sees(own) | host.sees(other) == {host.target(own)}
            assert host.login(other) == REFUSED
        right: dict[str, Any] = {"target": "us", "target_secret": SECRETS["own"]}
        assert mine.login(MINE) == REFUSED
        assert mine.login(MINE, "me", SECRETS["two"], **right) == REFUSED
        assert mine.login(MINE, "they", SECRETS["two"]) == REFUSED
        assert mine.login(MINE, "me", SECRETS["one"], **right) == 0
        assert mine.login(MINE, "me", SECRETS["one"], "us", SECRETS["all"]) == MUTUAL_REFUSED
        assert mine.login(THEIRS, "they", SECRETS["two"]) == REFUSED
        assert theirs.login(THEIRS, "they", SECRETS["one"]) == REFUSED
        assert theirs.login(THEIRS, "they", SECRETS["two"]) == 0

    isolated()
    for image in (MINE, THEIRS):
        scene.move(image, scene.others(scene.holder(image))[0])
    isolated()
    stage.chap(theirs, "they", "one")
    assert theirs.login(THEIRS, "they", SECRETS["two"]) == REFUSED
    assert theirs.login(THEIRS, "they", SECRETS["one"]) == 0
    stage.rbdgate("initiator", "group", "remove", "them", theirs.iqn)
    assert theirs.login(THEIRS, "they", SECRETS["one"]) == REFUSED
    stage.rbdgate("initiator", "group", "add", "them", theirs.iqn)
    stage.rbdgate("initiator", "chap", "clear", theirs.iqn)
    assert theirs.login(THEIRS) == 0


def test_discovery_asks_every_gateway_the_same(stage: Stage) -> None:
    """With credentials set nobody is told of a target without them, at whichever gateway; cleared, it is as before."""
    scene, mine = stage.scene, stage.mine
    own = {mine.target(MINE)}
    assert mine.sees(MINE) == own
    stage.rbdgate("cluster", "discovery-auth", "set", "--user", "everybody", "--secret-file", "/root/all")
    for gateway in scene.gateways:
        scene.move(MINE, gateway)
        assert mine.sees(MINE) == set()
        assert mine.sees_as(MINE, "everybody", SECRETS["one"]) == set()
        assert mine.sees_as(MINE, "everybody", SECRETS["all"]) == own
        assert mine.login(MINE) == 0
    stage.rbdgate("cluster", "discovery-auth", "clear")
    assert mine.sees(MINE) == own


def test_a_gateway_without_the_key(stage: Stage) -> None:
    """It is named when a secret is set; what it serves it keeps through a restart of its agent; it takes nothing that
    needs the key, and its discovery answers nobody; with the key back all is well, without a restart."""
    scene, mine = stage.scene, stage.mine
    keyless = scene.others(scene.front)[0]
    scene.move(MINE, keyless)
    stage.chap(mine, "me", "one")
    export = f"ls -d {TREE}/{mine.target(MINE)}/tpgt_1/acls/*; cat {TREE}/{mine.target(MINE)}/tpgt_*/enable"
    before = scene.shell(keyless, export)
    scene.shell(keyless, f"mv {KEY} {KEY}.away")
    scene.run(keyless, "systemctl", "restart", "rbdgate-agent")
    until("the node says it has no key", lambda: "no key" in scene.image(MINE)["reason"], within=60)
    assert scene.image(MINE)["holder"] == keyless
    assert scene.shell(keyless, export) == before
    assert mine.login(MINE, "me", SECRETS["one"]) == 0
    said = stage.rbdgate("initiator", "chap", "set", mine.iqn, "--user", "me", "--secret-file", "/root/two", status=1)
    assert f"{keyless} has no key" in said
    scene.move(MINE, scene.front)
    tried = scene.try_rbdgate("image", "move", MINE, "--to", keyless, "--timeout", "8")
    assert scene.image(MINE)["holder"] == scene.front, tried.stdout + tried.stderr
    assert mine.login(MINE, "me", SECRETS["one"]) == 0
    scene.shell(keyless, f"mv {KEY}.away {KEY}")
    until("the node has its key again", lambda: _moved(scene, keyless), within=60)
    assert mine.login(MINE, "me", SECRETS["one"]) == 0


def _moved(scene: Scene, to: str) -> bool:
    scene.try_rbdgate("image", "move", MINE, "--to", to, "--timeout", "10")
    return bool(scene.image(MINE)["holder"] == to)


def test_no_secret_can_be_read_anywhere(stage: Stage) -> None:
    """After every command and failure: not in what was printed, in the journals, in etcd, in any process's arguments,
    nor in the dump for a bug report."""
    scene, mine = stage.scene, stage.mine
    stage.chap(mine, "me", "one", "us", "own")
    stage.chap(mine, "me", "two", "us", "own")
    stage.rbdgate("cluster", "discovery-auth", "set", "--user", "everybody", "--secret-file", "/root/all")
    for words in (
        ("initiator", "chap", "set", mine.iqn, "--user", "NULL", "--secret-file", "/root/one"),
        ("initiator", "chap", "set", mine.iqn, "--user", "me", "--secret-file", "/root/none"),
    ):
        stage.rbdgate(*words, status=1)
    scene.etcd.etcdctl("put", f"/rbdgate/default/initiators/{mine.iqn}", '{"schema":1,"user":"x"}')
    until("the damage is told", lambda: "cannot be read" in scene.image(MINE)["reason"], within=60)
    stage.rbdgate("initiator", "chap", "show", mine.iqn, status=1)
    stage.chap(mine, "me", "two", "us", "own")
    holder = scene.holder(MINE)
    scene.kill_agent(holder)
    scene.wait_serving(MINE)
    for line in ("status", "events", f"image show {MINE}", "plan", f"initiator list {MINE}"):
        stage.rbdgate(*line.split())
        stage.rbdgate(*line.split(), "--json")
    stage.rbdgate("plan", node=holder)
    places = {"printed": stage.heard, "etcd": scene.etcd.etcdctl("get", "--prefix", "").stdout}
    for gateway in scene.gateways:
        places[f"journal of {gateway}"] = scene.run(gateway, "journalctl", "--output=json", "--all")
        places[f"arguments on {gateway}"] = scene.shell(gateway, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        places[f"dump of {gateway}"] = scene.run(gateway, "rbdgate-agent", "dump")
        places[f"kernel log of {gateway}"] = scene.run(gateway, "dmesg")
        key = scene.run(gateway, "cat", KEY).strip()
        assert not [place for place, text in places.items() if key in text]
    json.loads(places[f"dump of {holder}"])
    assert "me" in places["etcd"]
    for secret in SECRETS.values():
        assert not [place for place, text in places.items() if secret in text], secret
