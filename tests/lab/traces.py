"""What a lab has left on this machine, found without asking the lab: for tests that it leaves nothing."""

from __future__ import annotations

from pathlib import Path

from tests.lab.layout import CACHE, Places


def of(name: str) -> list[str]:
    """Every process, namespace, mount and file of the lab, each as one line; empty if it is gone without a trace."""
    places = Places(name)
    found = [str(path) for path in (places.run, places.data, Path("/run/netns") / places.netns) if path.exists()]
    found += [str(path) for path in CACHE.glob("*.new")]
    homes = tuple(f"{path}/".encode() for path in (places.run, places.data))
    words = (*homes, places.netns.encode())
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            mounts = (process / "mounts").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if any(word in command for word in words):
            found.append(f"{process.name}: {command.replace(bytes(1), b' ').decode(errors='replace')[:200]}")
        if any(home in mounts for home in homes):
            found.append(f"{process.name} has a mount of the lab")
    return found
