"""Commands on the host: what a lab needs there, and how it runs them.

A command never outlives the lab's own process: the kernel kills it when its parent dies, so that a lab killed in
the middle of anything leaves no builder behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lab.layout import LabError, LabUsage

# Command or file -> Debian package that has it.
NEEDED = {
    "linux.uml": "user-mode-linux",
    "debootstrap": "debootstrap",
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "monmaptool": "ceph-common",
    "/usr/lib/python3/dist-packages/rados.cpython-311-x86_64-linux-gnu.so": "python3-rados",
    "/usr/lib/python3.11/ensurepip/__init__.py": "python3-venv",
    "ip": "iproute2",
    "nft": "nftables",
    "gcc": "gcc",
    "/usr/include/dlfcn.h": "libc6-dev",
    "ssh": "openssh-client",
    "unshare": "util-linux",
}


def check() -> None:
    """Say in one sentence what keeps this machine from running a lab; LabUsage if anything does."""
    if os.geteuid() != 0:
        raise LabUsage("the lab makes network namespaces and mounts, so it must run as root")
    missing = sorted({package for thing, package in NEEDED.items() if not _present(thing)})
    if missing:
        raise LabUsage(f"not installed here: {', '.join(missing)} (apt-get install {' '.join(missing)})")
    if not Path("/dev/net/tun").exists():
        raise LabUsage("/dev/net/tun is missing: the nodes' network cards are tap devices (modprobe tun)")


def _present(thing: str) -> bool:
    if thing.startswith("/"):
        return Path(thing).exists()
    return shutil.which(thing, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


def run(command: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0) -> str:
    """Run a command that dies with this process and return its output; LabError with its complaint if it fails."""
    # Without stdin the command must not read the lab's own: a script's next lines may wait there.
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", *command],
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(command)[:300]} took longer than {timeout:.0f} s") from None
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise LabError(f"{' '.join(command)[:300]} failed ({done.returncode}): {complaint}")
    return done.stdout


def run_apart(command: Sequence[str], *, log: Path, timeout: float) -> None:
    """Run a command with process and mount namespaces of its own, output to `log`; LabError if it fails.

    When it ends, or this process dies, the kernel ends every process it started and undoes every mount it made.
    """
    apart = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--propagation", "private"]
    with log.open("ab") as output:
        try:
            status = subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", *apart, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise LabError(f"{command[0]} took longer than {timeout:.0f} s; see {log}") from None
    if status:
        tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
        raise LabError(f"{' '.join(command)[:200]} failed ({status}): {tail}")
