"""What is asked wrongly is refused with the value, the reason and what to do, and changes nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.lab_product.conftest import IMAGE
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.waiting import until

PREFIX = "/rbdgate/default/"


def stored(scene: Scene) -> str:
    """All that etcd keeps without a lease: what a refused command must not change."""
    kept = ("settings", "images/", "unique/", "nodes/", "moves/")
    return "".join(scene.etcd.etcdctl("get", "--prefix", PREFIX + key).stdout for key in kept)


REFUSED = {
    "malformed IQN": (("initiator", "allow", IMAGE, "iqn.nonsense"), "iqn.nonsense"),
    "address outside every network": (
        ("image", "create", "rbd/bad", "--size", "1G", "--address", "storage-1=192.0.2.7"),
        "192.0.2.7",
    ),
    "address outside its network": (
        ("image", "create", "rbd/bad", "--size", "1G", "--address", "storage-1=10.77.2.150"),
        "10.77.2.150",
    ),
    "size not a multiple of 512": (("image", "create", "rbd/bad", "--size", "1000000001"), "1000000001"),
    "unknown pool": (("image", "create", "nopool/bad", "--size", "1G"), "nopool"),
    "unknown network": (("image", "create", "rbd/bad", "--size", "1G", "--address", "lan=10.77.1.150"), "lan"),
    "no such image": (("image", "show", "rbd/nothing"), "rbd/nothing"),
    "move to an unknown node": (("image", "move", IMAGE, "--to", "gw9"), "gw9"),
    "name taken": (("image", "create", IMAGE, "--size", "1G"), IMAGE),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_and_changes_nothing(scene: Scene, disk: Disk, case: str) -> None:
    """A wrong value is named, the command fails, and etcd holds what it held."""
    arguments, named = REFUSED[case]
    before = stored(scene)
    done = scene.try_rbdgate(*arguments)
    assert done.returncode in (1, 2), done.stdout
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or done.returncode == 2, done.stderr
    assert stored(scene) == before


def test_an_address_in_use_is_refused_with_its_owner(scene: Scene, disk: Disk) -> None:
    """A portal address is given once; the refusal says which image has it."""
    before = stored(scene)
    address = scene.image(IMAGE)["paths"][0]["address"]
    done = scene.try_rbdgate("image", "create", "rbd/bad", "--size", "1G", "--address", f"storage-1={address}")
    assert done.returncode == 1
    assert address in done.stderr
    assert IMAGE in done.stderr
    assert stored(scene) == before


def foreign_journaling(scene: Scene, name: str) -> None:
    """An image with a feature that krbd does not have."""
    scene.rbd("create", name, "--size", "16M", "--image-feature", "exclusive-lock,journaling")


def plain(scene: Scene, name: str) -> None:
    """An image as `rbd` makes it for krbd."""
    scene.rbd("create", name, "--size", "16M", "--image-feature", "layering")


ADOPT: dict[str, tuple[Callable[[Scene, str], None], Callable[[dict[str, str]], list[str]], str]] = {
    "journaling": (foreign_journaling, lambda _: [], "journaling"),
    "duplicate IQN": (plain, lambda image: ["--iqn", image["iqn"]], IMAGE),
    "duplicate serial": (plain, lambda image: ["--serial", image["serial"]], IMAGE),
}


@pytest.mark.parametrize("case", ADOPT)
def test_what_cannot_be_adopted_is_refused(scene: Scene, disk: Disk, case: str) -> None:
    """An image that krbd cannot map, or whose identity another image has, is not taken, with the reason."""
    make, options, named = ADOPT[case]
    name = f"rbd/adopt-{case.replace(' ', '-')}"
    make(scene, name)
    try:
        before = stored(scene)
        paths = ["--path", "1=10.77.1.180"]
        done = scene.try_rbdgate("image", "adopt", name, *paths, *options(scene.image(IMAGE)))
        assert done.returncode == 1, done.stdout
        assert named in done.stderr
        assert stored(scene) == before
    finally:
        scene.rbd("rm", name)


def test_an_image_somebody_else_has_open_is_refused(scene: Scene, disk: Disk) -> None:
    """An image with a watcher that is none of ours is not adopted, and the refusal names the watcher."""
    name = "rbd/adopt-watched"
    plain(scene, name)
    ceph = scene.ceph
    watch = ["nsenter", f"--net=/run/netns/{ceph.netns}", "rbd", "-c", str(ceph.conf), "--keyring"]
    with subprocess.Popen(
        [*watch, str(ceph.admin_keyring), "watch", name], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as watcher:
        try:
            assert watcher.stdout is not None
            assert "press enter" in watcher.stdout.readline()
            before = stored(scene)
            done = scene.try_rbdgate("image", "adopt", name, "--path", "1=10.77.1.181")
            assert done.returncode == 1, done.stdout
            assert "watch" in done.stderr or "open" in done.stderr
            assert stored(scene) == before
        finally:
            watcher.communicate("\n", timeout=20)
    scene.rbd("rm", name)


@pytest.mark.parametrize(
    ("value", "named"),
    [("garbage", "rbd/odd"), (json.dumps({"schema": 99}), "99")],
    ids=["garbage", "newer schema"],
)
def test_an_unreadable_spec_harms_only_its_image(scene: Scene, disk: Disk, value: str, named: str) -> None:
    """Garbage or a newer version under our prefix makes that one image broken, with the reason; the rest is served."""
    etcd = scene.etcd
    key = f"{PREFIX}images/rbd/odd"
    etcd.etcdctl("put", key, value)
    try:
        images = {image["name"]: image for image in scene.rbdgate("image", "list")}
        assert images["rbd/odd"]["state"] == "broken"
        assert named in images["rbd/odd"]["reason"] or named == "rbd/odd"
        assert images["rbd/odd"]["reason"]
        assert images[IMAGE]["state"] == "serving"
        until("every agent's turn goes on", lambda: images_serving(scene), within=30)
    finally:
        etcd.etcdctl("del", key)


def images_serving(scene: Scene) -> bool:
    """Whether the test's image is still served after a look at every node."""
    return bool(scene.image(IMAGE)["state"] == "serving" and all(n["live"] for n in scene.rbdgate("node", "list")))


def test_a_settings_file_with_an_unknown_key_is_refused(scene: Scene) -> None:
    """A misspelt key is named, with the file, and nothing is started on a guess."""
    text = scene.run("gw1", "cat", "/etc/rbdgate/rbdgate.toml") + "\n[etcdd]\nendpoint = 1\n"
    scene.put("gw1", "/tmp/bad.toml", text.encode())
    done = scene.try_rbdgate("status", "--settings", "/tmp/bad.toml")
    assert done.returncode in (1, 2)
    assert "etcdd" in done.stderr
