"""One agent and one guard on a node, whatever their settings say: on real files and sockets."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from agent.main import _only_one
from gateway.errors import Refused
from gateway.runtime import RuntimeDirectory

DAEMON = """
import sys
from pathlib import Path
from agent.main import _only_one
from gateway.runtime import RuntimeDirectory
held = _only_one(RuntimeDirectory(Path(sys.argv[1])), sys.argv[2])
print("runs", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def name() -> str:
    """A kind of daemon that nobody else on this machine has: names of sockets are everybody's."""
    return f"test-{uuid.uuid4().hex}"


@pytest.mark.parametrize(
    ("second", "sentence"), [("one", "already; stop it"), ("two", "already, with another runtime_directory")]
)
def test_a_second_daemon_refuses(tmp_path: Path, name: str, second: str, sentence: str) -> None:
    """A second daemon of a kind is refused in the same directory and in another one, until the first one ended."""
    with _only_one(RuntimeDirectory(tmp_path / "one"), name):
        with pytest.raises(Refused, match=f"an rbdgate {name} runs on this node {sentence}"):
            _only_one(RuntimeDirectory(tmp_path / second), name)
        _only_one(RuntimeDirectory(tmp_path / "two"), f"{name}-guard").close()
    _only_one(RuntimeDirectory(tmp_path / second), name).close()


def test_a_killed_daemon_leaves_nothing(tmp_path: Path, name: str) -> None:
    """The name is held by another process as well, and free as soon as that was killed."""
    checkout = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", DAEMON, str(tmp_path / "one"), name]
    with subprocess.Popen(command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"runs\n"
        with pytest.raises(Refused, match="with another runtime_directory"):
            _only_one(RuntimeDirectory(tmp_path / "two"), name)
        os.kill(daemon.pid, 9)
    _only_one(RuntimeDirectory(tmp_path / "two"), name).close()
