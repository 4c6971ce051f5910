"""The Debian tree every node starts from: packages, rbdgate's dependencies and the kernel's modules; built once.

It is cached under a hash of what it is made of. It is built beside its place, under a lock, and moved there when it
is complete, so a tree that can be seen is whole. Nothing writes into it afterwards: nodes have overlays on top.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import run_apart
from tests.lab.layout import CACHE, LabError

CHECKOUT = Path(__file__).resolve().parents[2]
MODULES = Path("/usr/lib/uml/modules")
MIRROR = os.environ.get("RBDGATE_LAB_MIRROR", "http://deb.debian.org/debian")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "openssh-server", "ca-certificates"),
    *("python3", "python3-venv", "python3-rados", "python3-rbd"),
    *("iproute2", "iptables", "ethtool", "iputils-ping", "kmod", "procps", "util-linux"),
    *("open-iscsi", "multipath-tools", "sg3-utils", "libiscsi-bin", "lsscsi", "fuse3", "e2fsprogs"),
    *("python3-pexpect", "python3-pycurl"),  # what fence_scsi imports
)
FRESH_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "openssh-server", "ca-certificates"),
    *("python3", "python3-apt", "iproute2", "kmod", "procps", "util-linux"),
)
"""What a machine has that nobody has touched: Debian's cloud images have all of it."""
VENV = "opt/rbdgate"
FORMAT = 1  # raise it when the way a tree is built changes
KEEP_UNUSED = 14 * 86400.0  # seconds since its last use after which another checkout's tree is removed


@dataclass(frozen=True)
class Recipe:
    """What a tree is made of; equal recipes share one tree."""

    packages: tuple[str, ...]
    requirements: tuple[str, ...]
    kernel: str

    @classmethod
    def of(cls, checkout: Path) -> Recipe:
        """The recipe for a checkout: its declared dependencies and this machine's User-Mode Linux."""
        project = tomllib.loads((checkout / "pyproject.toml").read_text())
        requirements = [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"]
        return cls(PACKAGES, tuple(requirements), _kernel())

    @classmethod
    def fresh(cls) -> Recipe:
        """The recipe of a Debian that nothing was installed on."""
        return cls(FRESH_PACKAGES, (), _kernel())

    @property
    def digest(self) -> str:
        """The tree's name in the cache."""
        parts = [FORMAT, MIRROR, self.packages, self.requirements, self.kernel]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _kernel() -> str:
    kernels = sorted(path.name for path in MODULES.iterdir()) if MODULES.is_dir() else []
    if not kernels:
        raise LabError(f"{MODULES} has no kernel modules: reinstall the package user-mode-linux")
    return kernels[-1]


def ready(recipe: Recipe, say: Callable[[str], None]) -> Path:
    """The tree of that recipe, built now if it is not cached; LabError if that fails."""

    def build(place: Path) -> None:
        say("building the nodes' Debian tree, once (about a minute; needs the network)")
        _build(recipe, place)

    return kept(recipe.digest, build)


def kept(name: str, build: Callable[[Path], None]) -> Path:
    """What is in the cache under that name, built now if it is not there; whatever `build` raises.

    Two builders at once wait for each other; a build that was killed leaves a directory that the next one removes.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    place = CACHE / name
    with _lock():
        _forget_leftovers(place)
        if not place.is_dir():
            build(place.with_suffix(".new"))
            place.with_suffix(".new").rename(place)
        os.utime(place)
    return place


def forget_half_built() -> None:
    """Remove what a killed build left in the cache, unless somebody builds right now."""
    if not CACHE.is_dir():
        return
    try:
        with _lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            _forget_leftovers(None)
    except BlockingIOError:
        pass  # the builder itself will do it


@contextmanager
def _lock(operation: int = fcntl.LOCK_EX) -> Iterator[None]:
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, operation)
        yield


def _forget_leftovers(wanted: Path | None) -> None:
    """Remove half-built trees (nobody builds while we hold the lock) and trees nobody has used for long."""
    oldest = time.time() - KEEP_UNUSED
    for path in CACHE.iterdir():
        stale = path.is_dir() and path != wanted and path.stat().st_mtime < oldest
        if path.suffix == ".new" or stale:
            shutil.rmtree(path)


def _build(recipe: Recipe, place: Path) -> None:
    """Build the tree at `place`; its log is beside it."""
    log = CACHE / "build.log"
    log.unlink(missing_ok=True)
    include = "--include=" + ",".join(recipe.packages)
    run_apart(["debootstrap", "--variant=minbase", include, "bookworm", str(place), MIRROR], log=log, timeout=1200)
    for path in (place / "var/cache/apt/archives").glob("*.deb"):
        path.unlink()
    shutil.copytree(MODULES / recipe.kernel, place / "lib/modules" / recipe.kernel, symlinks=True)
    if recipe.requirements:
        _install_dependencies(recipe, place, log)


def _install_dependencies(recipe: Recipe, place: Path, log: Path) -> None:
    """Make the environment that sees Debian's rados and rbd, with our dependencies in it, all byte-compiled.

    Wheels are made by the host's pip with the host's settings (mirror, proxy), then installed without a network.
    """
    wheels, maker = place / "root/wheels", place / "root/maker"
    run_apart(["/usr/bin/python3", "-m", "venv", str(maker)], log=log, timeout=120)
    run_apart([str(maker / "bin/pip"), "wheel", "-w", str(wheels), *recipe.requirements], log=log, timeout=1200)
    inside = ["chroot", str(place)]
    run_apart(
        [*inside, "/usr/bin/python3", "-m", "venv", "--system-site-packages", f"/{VENV}"],
        log=log,
        timeout=120,
    )
    pip = [
        f"/{VENV}/bin/pip",
        "install",
        "--isolated",
        "--no-index",
        "--no-cache-dir",
        "--find-links",
        "/root/wheels",
    ]
    run_apart([*inside, *pip, *recipe.requirements], log=log, timeout=600)
    shutil.rmtree(wheels)
    shutil.rmtree(maker)
    run_apart(
        [
            *inside,
            "/usr/bin/python3",
            "-m",
            "compileall",
            "-q",
            f"/{VENV}/lib",
            "/usr/lib/python3/dist-packages",
        ],
        log=log,
        timeout=300,
    )
