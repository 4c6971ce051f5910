"""krbd in a real kernel: the anchor's client, maps that share it, a fence that hits it, a key that stays hidden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the plugin below imports it, and pytest wants to be the first
    from tests.lab.bare import Rooms

pytest_plugins = ("tests.lab.bare",)

PLACE = "/run/krbd-test"

# Inside the node: `c` is a client of the least user, `k` the kernel's driver, `log_in` how the kernel logs in.
TOOLS = f"""
import base64, pathlib
from dataclasses import replace
from gateway.errors import *
from gateway.images.cluster import *
from gateway.images.fence import *
from gateway.images.header import *
from gateway.images.image import *
from gateway.images.krbd import *
here = pathlib.Path("{PLACE}")
c = CephConnection(here / "ceph.conf", "krbdtest", here / "keyring", op_timeout=10)
k = Krbd()
log_in = KernelClient(c.mon_addresses(), c.user, c.key)
NAME = ImageName("rbd", "krbd-test")

def image(name=NAME):
    try:
        return create_image(c, name, 16 << 20)
    except AlreadyExists:
        return describe_image(c, name).image_id

def anchor(generation, login=log_in):
    return k.map_anchor("rbd", login, client_options(generation, osd_request_timeout=30, mount_timeout=10))

def write(mapping, byte):
    with open(mapping.dev_path, "r+b", buffering=0) as disk:
        disk.write(byte * 4096)
        os.fsync(disk.fileno())

def refused(act, *words):
    try:
        act(*words)
    except (RbdgateError, OSError) as error:
        return type(error).__name__
    return "done"

def unmap_all():
    for mapping in sorted(k.mappings(), key=lambda mapping: mapping.name == ANCHOR):
        k.unmap(mapping.number)

create_anchor(c, "rbd")
"""


@pytest.fixture
def gw(rooms: Rooms) -> Iterator[Rooms]:
    """gw1 with a configuration and a user with no more than `profile rbd`, and nothing mapped."""
    from tests.lab.making import ceph_of  # noqa: PLC0415 - after the plugin, which pytest wants to import itself

    ceph = ceph_of(rooms.lab.places)
    keyring = ceph.add_user("krbdtest", "profile rbd", "profile rbd pool=rbd, profile rbd pool=rbd2")
    rooms.sh("gw1", f"mkdir -p -m 0700 {PLACE}; modprobe rbd")
    rooms.lab.put("gw1", ceph.conf, f"{PLACE}/ceph.conf")
    rooms.lab.put("gw1", keyring, f"{PLACE}/keyring")
    try:
        yield rooms
    finally:
        rooms.python("gw1", TOOLS, "unmap_all()")


def test_maps_share_the_anchors_client(gw: Rooms) -> None:
    """Images come and go under the instance that the anchor had before; their watch and lock name that instance."""
    seen = gw.python(
        "gw1",
        TOOLS,
        """
        held = anchor(1)
        say([held.read_only, held.generation, refused(Instance, held.instance.text)])
        say(sorted(map(str, describe_image(c, ImageName("rbd", ANCHOR)).openers)))
        for name in (NAME, ImageName("rbd2", "other")):
            uid = image(name)
            mapping = k.map_image(name, log_in, held)
            facts = describe_image(c, name)
            say([mapping.image_id == uid, mapping.size, mapping in k.mappings(), mapping.read_only])
            say([set(facts.watchers) == {held.instance}, set(facts.lock_owners) == {held.instance}])
            write(mapping, b"a")
            k.unmap(mapping.number)
            say(sorted(map(str, describe_image(c, name).openers)))
            say(refused(k.unmap, mapping.number))
        say(k.mappings() == (held,))
        """,
    )
    per_image = [[True, 16 << 20, True, False], [True, True], [], "NotFound"]
    assert seen == [[True, 1, "done"], [], *per_image, *per_image, True]


@pytest.mark.full
def test_unmap_outlasts_udev(gw: Rooms) -> None:
    """A device that was just written to unmaps, though udev opens it for a look at every close."""
    (left,) = gw.python(
        "gw1",
        TOOLS,
        """
        image()
        held = anchor(1)
        for _ in range(20):
            mapping = k.map_image(NAME, log_in, held)
            write(mapping, b"a")
            k.unmap(mapping.number)
        say(k.mappings() == (held,))
        """,
    )
    assert left is True


def test_a_new_generation_is_a_new_client(gw: Rooms) -> None:
    """The same generation gives the same instance, another one a new instance; a lost anchor is not shared."""
    seen = gw.python(
        "gw1",
        TOOLS,
        """
        image()
        first, again, second = anchor(1), anchor(1), anchor(2)
        say([first.instance == again.instance, first.instance == second.instance])
        k.unmap(again.number)
        mapping = k.map_image(NAME, log_in, second)
        say(mapping.instance == second.instance)
        k.unmap(mapping.number)
        k.unmap(second.number)
        say(refused(k.map_image, NAME, log_in, second))
        """,
    )
    assert seen == [[True, False], True, "Inconsistent"]


def test_a_fenced_client_is_cleared_away(gw: Rooms) -> None:
    """After the fence the old mapping's writes fail, a new client maps and writes, and all that is old unmaps fast."""
    (late, broken, fresh, content, slow) = gw.python(
        "gw1",
        TOOLS,
        """
        uid = image()
        old = anchor(1)
        mapping = k.map_image(NAME, log_in, old)
        write(mapping, b"a")
        facts = describe_image(c, NAME)
        fence(c, facts.openers, facts.touches, expire=31536000)
        break_locks(c, NAME, facts.openers)
        say(refused(write, mapping, b"b"))
        say(sorted(map(str, describe_image(c, NAME).openers)))
        new = anchor(2)
        taken = k.map_image(NAME, log_in, new)
        say(refused(write, taken, b"c"))
        with open(taken.dev_path, "rb") as disk:
            say(disk.read(4096) == b"c" * 4096)
        say(max(took(k.unmap, mapping.number), took(k.unmap, old.number)))
        """,
    )
    assert (late, broken, fresh, content) == ("OSError", [], "done", True)
    assert slow < 5


def test_the_key_is_nowhere_to_be_read(gw: Rooms) -> None:
    """While an image is mapped, neither sysfs nor the kernel's log nor its list of keys shows the cephx key."""
    (found, listed) = gw.python(
        "gw1",
        TOOLS,
        """
        image()
        mapping = k.map_image(NAME, log_in, anchor(1))
        files = [path for path in pathlib.Path("/sys/bus/rbd").rglob("*") if path.is_file()]
        files += [path for path in pathlib.Path("/sys/devices/rbd").rglob("*") if path.is_file()]
        text = subprocess.run(["dmesg"], capture_output=True).stdout
        for path in files:
            try:
                text += path.read_bytes()
            except OSError:
                pass
        say(base64.b64encode(c.key.raw) in text)
        say("rbdgate.krbdtest" in pathlib.Path("/proc/keys").read_text())
        """,
    )
    assert (found, listed) == (False, False)


def test_refusals_are_named(gw: Rooms) -> None:
    """An unknown image, an unknown pool, a wrong key and a device in use are told apart, and leave nothing mapped."""
    seen = gw.python(
        "gw1",
        TOOLS,
        """
        image()
        held = anchor(1)
        say(refused(k.map_image, ImageName("rbd", "nothing"), log_in, held))
        say(refused(k.map_image, ImageName("nopool", "x"), log_in, held))
        wrong = replace(log_in, key=replace(c.key, raw=c.key.raw[:-1] + bytes([c.key.raw[-1] ^ 1])))
        say(refused(anchor, 3, wrong))
        say(k.mappings() == (held,))
        mapping = k.map_image(NAME, log_in, held)
        with open(mapping.dev_path, "rb"):
            say(refused(k.unmap, mapping.number))
        k.unmap(mapping.number)
        say(k.mappings() == (held,))
        """,
    )
    assert seen == ["NotFound", "NotFound", "Refused", True, "DeviceInUse", True]


@pytest.mark.full
def test_monitors_without_version_1(gw: Rooms) -> None:
    """With monitors that speak only messenger version 2, the anchor and the images on its client map as well."""
    (speaks, same) = gw.python(
        "gw1",
        TOOLS,
        """
        image()
        modern = replace(log_in, mons=MonAddresses((), log_in.mons.v2))
        held = anchor(1, modern)
        say(held.options["ms_mode"])
        say(k.map_image(NAME, modern, held).instance == held.instance)
        """,
    )
    assert (speaks, same) == ("prefer-crc", True)


@pytest.mark.full
def test_a_map_waits_for_the_newest_map(gw: Rooms) -> None:
    """With the monitor out of reach and the OSDs not, a map on the anchor's client does not go on with an old OSD
    map: it waits, and is done when the monitor is back."""
    (without, back) = gw.python(
        "gw1",
        TOOLS,
        """
        image()
        held = anchor(1)
        rule = ["OUTPUT", "-p", "tcp", "-d", log_in.mons.v1[0].rpartition(":")[0], "-j", "DROP"]
        mapping = threading.Thread(target=k.map_image, args=(NAME, log_in, held), daemon=True)
        subprocess.run(["iptables-legacy", "-I", *rule], check=True)
        try:
            mapping.start()
            mapping.join(4)
            say([mapping.is_alive(), k.mappings() == (held,)])
        finally:
            subprocess.run(["iptables-legacy", "-D", *rule], check=True)
        mapping.join(40)
        say([mapping.is_alive(), [m.name for m in k.mappings()]])
        """,
    )
    assert without == [True, True]
    assert back == [False, ["rbdgate.anchor", "krbd-test"]]
