"""The controller: Ansible in an environment of its own, the collection where Ansible looks for one, and playbooks run.

The environment is apart from the tests' own because of its dependencies; it is made once and again when what it is made
of changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ENVIRONMENT = ROOT / ".venv-ansible"
COLLECTION = ROOT / "ansible"
NAMESPACE, NAME = "rbdgate", "gateways"


def environment() -> Path:
    """The directory with Ansible's commands, made now if it is not there; RuntimeError with pip's complaint."""
    stamp = ENVIRONMENT / ".installed-for"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        _run(["/usr/bin/python3", "-m", "venv", str(ENVIRONMENT)])
        pip = [str(ENVIRONMENT / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--requirement", str(REQUIREMENTS)])
        stamp.write_text(wanted)
    return ENVIRONMENT / "bin"


def lay_out(place: Path) -> Path:
    """Copy the collection below `place` as Ansible wants it, ansible_collections/NAMESPACE/NAME; where it is there."""
    there = place / "ansible_collections" / NAMESPACE / NAME
    shutil.copytree(COLLECTION, there)
    return there


def surroundings(home: Path) -> dict[str, str]:
    """The environment variables Ansible runs with: its own commands first, its files below `home`, no colours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return kept | {
        "PATH": f"{environment()}:{os.environ['PATH']}",
        "HOME": str(home),
        "ANSIBLE_HOME": str(home / ".ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(home),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")


@dataclass(frozen=True)
class Recap:
    """What Ansible counted for one host."""

    ok: int
    changed: int
    unreachable: int
    failed: int
    rescued: int


@dataclass(frozen=True)
class Play:
    """How a playbook ended: its exit status, everything it printed, and the count for each host."""

    status: int
    output: str

    @property
    def recaps(self) -> dict[str, Recap]:
        """The counts by host, from the last lines."""
        found = re.findall(
            r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)\s+skipped=\d+\s+rescued=(\d+)",
            self.output,
            re.MULTILINE,
        )
        return {host: Recap(*map(int, counts)) for host, *counts in found}

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something, for the hosts where any did."""
        return {host: recap.changed for host, recap in self.recaps.items() if recap.changed}


@dataclass(frozen=True)
class Incident:
    """Something that happens when a playbook prints a line that begins so, for the `count`th time."""

    line: str
    count: int
    act: Callable[[], None]


@dataclass(frozen=True)
class Controller:
    """A machine that runs playbooks: its directory, with collection and inventory, words before each command, and all
    that it has played."""

    home: Path
    enter: tuple[str, ...]
    played: list[Play] = field(default_factory=list)

    @property
    def inventory(self) -> Path:
        """Where the inventory is, with its group_vars beside it."""
        return self.home / "inventory"

    def play(self, playbook: str, *words: str, within: float, at: Incident | None = None, **variables: object) -> Play:
        """Run a playbook of the collection with these extra variables; it is killed after `within` seconds.

        At an incident's line of output, what it is happens while the playbook goes on.
        """
        command = [*self.enter, "ansible-playbook", "-i", str(self.inventory / "inventory.yml")]
        command += ["--vault-password-file", str(self.home / "vault-password"), f"{NAMESPACE}.{NAME}.{playbook}"]
        command += [*words, *(["--extra-vars", json.dumps(variables)] if variables else [])]
        return self._run(command, within, at)

    def encrypt(self, file: Path) -> None:
        """Encrypt a file of variables, as a vault."""
        command = ["ansible-vault", "encrypt", "--vault-password-file", str(self.home / "vault-password"), str(file)]
        done = self._run(command, 60)
        assert done.status == 0, done.output

    def _run(self, command: list[str], within: float, at: Incident | None = None) -> Play:
        running = subprocess.Popen(
            ["timeout", "--kill-after=5", str(within), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.home,
            env=self._environment(),
        )
        assert running.stdout is not None
        lines, seen = [], 0
        with running:
            for line in running.stdout:
                lines.append(line)
                if at is not None and line.startswith(at.line):
                    seen += 1
                    if seen == at.count:
                        at.act()
        self.played.append(Play(running.returncode, "".join(lines)))
        return self.played[-1]

    def _environment(self) -> Mapping[str, str]:
        return surroundings(self.home) | {"ANSIBLE_CONFIG": str(self.inventory / "ansible.cfg")}
