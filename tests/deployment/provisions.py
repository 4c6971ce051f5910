"""What fresh hosts are served inside the lab: Debian packages as an apt repository, and wheels for pip.

Downloaded once and cached beside the lab's trees, under a hash of what was asked for.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tomllib
from pathlib import Path

from tests.lab.tree import CHECKOUT, FRESH_PACKAGES, kept

PACKAGES = (
    *("python3-venv", "python3-rados", "python3-rbd", "openssl", "nftables", "systemd-timesyncd"),
    *("etcd-server", "etcd-client", "open-iscsi", "multipath-tools", "lvm2", "prometheus"),
)
"""What the roles install, and LVM, which is to be kept off guests' disks."""

_FORMAT = 1  # raise it when the way it is made changes


def ready(tree: Path) -> Path:
    """The directory with `debian/` and `wheels/`, for hosts that boot from that tree."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    requirements = tuple(project["project"]["dependencies"])
    asked = [_FORMAT, PACKAGES, FRESH_PACKAGES, requirements, tree.name]
    name = f"provisions-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}"
    return kept(name, lambda place: _make(place, tree, requirements))


def _make(place: Path, tree: Path, requirements: tuple[str, ...]) -> None:
    debian, wheels, work = place / "debian", place / "wheels", place / "work"
    for directory in (debian, wheels, work / "lists/partial", debian / "partial"):
        directory.mkdir(parents=True)
    # The machine's own sources, and lists of our own: nobody else's lock is in the way.
    apt = [
        *("apt-get", "-qq", "-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache::archives={debian}"),
        *("-o", f"Dir::State::status={tree}/var/lib/dpkg/status", "-o", "Dir::Cache::pkgcache="),
        *("-o", "Dir::Cache::srcpkgcache=", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"),
    ]
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--download-only", *PACKAGES])
    _run(["rm", "-r", str(work), str(debian / "partial")])
    index = _run(["dpkg-scanpackages", "--multiversion", "."], cwd=debian)
    (debian / "Packages").write_text(index)
    pip = [str(CHECKOUT / ".venv/bin/pip"), "wheel", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--wheel-dir", str(wheels), *requirements])


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
