"""Whether this kernel can serve: configfs mounted, LIO's modules loaded; loading them if not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from gateway.errors import Unavailable
from gateway.lio.configfs import TARGET_ROOT, read

MODULES = ("target_core_mod", "target_core_iblock", "iscsi_target_mod", "tcm_loop", "sg", "fuse", "rbd")
"""LIO's, what its reservations are read and trapped with, and krbd, in the order of their loading. `/etc/target/pr` is
there before target_core_mod picks `dbroot`.

configfs comes with the first of them, as a module or built into the kernel, where `/sys/module` does not show it.
"""

_CONFIGFS = os.path.dirname(TARGET_ROOT)


def check() -> None:
    """Raise Unavailable, with what to do, if LIO is not ready on this kernel."""
    missing = [name for name in MODULES if not os.path.isdir(f"/sys/module/{name}")]
    if missing:
        raise Unavailable(
            f"kernel module {', '.join(missing)} is not loaded: run `modprobe -a {' '.join(missing)}`; if there is no"
            " such module, this kernel lacks LIO (CONFIG_TARGET_CORE, CONFIG_TCM_IBLOCK, CONFIG_ISCSI_TARGET)"
        )
    if not os.path.ismount(_CONFIGFS):
        raise Unavailable(f"configfs is not mounted: run `mount -t configfs configfs {_CONFIGFS}`")
    if not os.path.isdir(f"{TARGET_ROOT}/core"):
        raise Unavailable(
            f"{TARGET_ROOT}/core is missing though target_core_mod is loaded; see the kernel's log (dmesg)"
        )


def ensure_modules(timeout: float = 30.0) -> None:
    """Load what is missing and mount configfs, then check; each command gets at most `timeout` seconds."""
    os.makedirs("/etc/target/pr", exist_ok=True)
    for name in MODULES:
        if not os.path.isdir(f"/sys/module/{name}"):
            _run(("modprobe", "--", name), timeout)
    if not os.path.ismount(_CONFIGFS):
        _run(("mount", "-t", "configfs", "configfs", _CONFIGFS), timeout)
    if not os.path.isdir(f"{TARGET_ROOT}/iscsi"):
        os.mkdir(f"{TARGET_ROOT}/iscsi")  # how configfs is told that the fabric is wanted
    check()


def dbroot() -> Path:
    """LIO's directory for what it keeps, below which it writes `pr/aptpl_<serial>` (target_core_configfs.c, dbroot)."""
    shown = read(f"{TARGET_ROOT}/dbroot")
    if not shown or not shown.startswith("/"):
        raise Unavailable(f"{TARGET_ROOT}/dbroot cannot be read: is target_core_mod loaded?")
    return Path(shown)


def _run(command: tuple[str, ...], timeout: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise Unavailable(f"cannot run {command[0]}: it is not installed (Debian packages kmod and mount)") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`{' '.join(command)}` did not end within {timeout:g} s") from None
    if done.returncode:
        raise Unavailable(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}")
