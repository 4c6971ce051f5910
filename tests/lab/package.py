"""The checkout as a wheel, and that wheel installed as a layer between the tree and the gateways' own disks.

Both run inside a chroot of the tree: what builds and installs is what the gateways have themselves.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import run_apart
from tests.lab.layout import LabError
from tests.lab.tree import CHECKOUT, VENV

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "gateway", "agent")
COMMANDS = ("rbdgate", "rbdgate-agent")
ENABLED_UNITS = ("rbdgate-guard.service", "rbdgate-agent.service")
# Arguments: tree, upper, work, mount point, then the command to run in the chroot.
_IN_OVERLAY = """
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
root=$4
shift 4
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Workshop:
    """A writable copy of the tree to build in; `upper` collects what is written."""

    tree: Path
    directory: Path

    @property
    def upper(self) -> Path:
        """What the commands wrote, as an overlay's layer."""
        return self.directory / "upper"

    def run(self, *command: str) -> None:
        """Run a command in the copy; LabError if it fails."""
        for name in ("upper", "work", "root"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        words = [str(self.tree), str(self.upper), str(self.directory / "work"), str(self.directory / "root")]
        run_apart(
            ["sh", "-c", _IN_OVERLAY, "sh", *words, *command],
            log=self.directory.with_suffix(".log"),
            timeout=300,
        )


def build_wheel(tree: Path, directory: Path, version: str | None = None, checkout: Path = CHECKOUT) -> Path:
    """Build the checkout's wheel in `directory`, under another version if one is given; return its path."""
    workshop = Workshop(tree, directory / "build")
    source = workshop.upper / "root/source"
    shutil.rmtree(workshop.directory, ignore_errors=True)
    _copy_sources(checkout, source, version)
    source.parent.chmod(0o700)
    pip = f"/{VENV}/bin/pip"
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--isolated", "--no-cache-dir")
    workshop.run(pip, "wheel", *flags, "-w", "/root/wheel", "/root/source")
    found = list((workshop.upper / "root/wheel").glob("rbdgate-*.whl"))
    if len(found) != 1:
        raise LabError(f"the build made {len(found)} wheels, not one; see {directory / 'build.log'}")
    wheel = directory / found[0].name
    shutil.move(found[0], wheel)
    shutil.rmtree(workshop.directory)
    return wheel


def install_layer(tree: Path, directory: Path, wheel: Path) -> Path:
    """Install the wheel into a new layer, with its commands on the path and its units enabled; return the layer."""
    workshop = Workshop(tree, directory / "layer")
    shutil.rmtree(workshop.directory, ignore_errors=True)
    (workshop.upper / "opt").mkdir(parents=True)
    shutil.copy(wheel, workshop.upper / "opt" / wheel.name)
    flags = ("--no-deps", "--no-index", "--isolated", "--no-cache-dir", "--compile")
    workshop.run(f"/{VENV}/bin/pip", "install", *flags, f"/opt/{wheel.name}")
    (workshop.upper / "opt" / wheel.name).unlink()
    commands = workshop.upper / "usr/local/bin"
    commands.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        (commands / name).symlink_to(f"/{VENV}/bin/{name}")
    _install_units(workshop)
    return workshop.upper


def _install_units(workshop: Workshop) -> None:
    """Put the package's units where an installation puts them, and enable those that start by themselves."""
    units = workshop.upper / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    shipped = workshop.upper.glob(f"{VENV}/lib/python3*/site-packages/agent/systemd/*.*")
    for unit in shipped:
        if unit.suffix in {".service", ".socket", ".timer", ".target", ".path", ".mount"}:
            shutil.copy(unit, units / unit.name)
    enabled = [name for name in ENABLED_UNITS if (units / name).exists()]
    if enabled:
        workshop.run("systemctl", "enable", *enabled)


def _copy_sources(checkout: Path, place: Path, version: str | None) -> None:
    """Copy what a wheel is built from, so that a build writes nothing into the checkout."""
    place.mkdir(parents=True)
    for name in SOURCES:
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (checkout / name).exists():
            shutil.copy(checkout / name, place / name)
    if version is not None:
        project = place / "pyproject.toml"
        text, changed = re.subn(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text())
        if changed != 1:
            raise LabError(f"{checkout / 'pyproject.toml'} does not have exactly one line 'version = ...'")
        project.write_text(text)
