"""Runs on a gateway: writes down, twice a second, which portals the kernel has enabled and through which client.

    python3 sampler.py FILE

One JSON object a line: `time` (CLOCK_REALTIME in seconds), `boot` and `exports`, each `[iqn, tag, device, instance]`:
an enabled TPG that has a portal, the backstore its LUN 0 links to, and krbd's client instance under that.
Reads configfs and sysfs only, and writes nothing there.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

TARGETS = Path("/sys/kernel/config/target/iscsi")
RBD = Path("/sys/bus/rbd/devices")
PERIOD = 0.5  # seconds


def exports() -> list[list[object]]:
    """Every enabled TPG with a portal; what vanishes while it is read is not there any more."""
    found: list[list[object]] = []
    for tpg in TARGETS.glob("*/tpgt_*"):
        try:
            if (tpg / "enable").read_text().strip() != "1" or not any((tpg / "np").iterdir()):
                continue
            device = next((link.resolve() for link in (tpg / "lun/lun_0").iterdir() if link.is_symlink()), None)
            instance = _instance(device) if device else ""
        except OSError:
            continue
        found.append([tpg.parent.name, int(tpg.name.removeprefix("tpgt_")), device.name if device else "", instance])
    return found


def _instance(device: Path) -> str:
    """Krbd's client instance under a backstore, as its `client_addr` names it; empty if that is not an RBD."""
    block = (device / "udev_path").read_text().strip().rpartition("/")[2]
    address = RBD / block.removeprefix("rbd") / "client_addr"
    return address.read_text().strip() if block.startswith("rbd") and address.exists() else ""


def main() -> None:
    """Sample for ever."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with open(sys.argv[1], "a", buffering=1) as samples:
        while True:
            samples.write(json.dumps({"time": time.time(), "boot": boot, "exports": exports()}) + "\n")
            time.sleep(PERIOD)


if __name__ == "__main__":
    main()
