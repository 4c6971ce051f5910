"""What README tells an administrator to type for the least rights, so that the tests use exactly that."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from gateway.store.keys import DEFAULT_PREFIX

README = Path(__file__).resolve().parents[2] / "README.md"

PASSWORD = "no-secret"  # etcdctl reads one word


def cephx_caps() -> dict[str, str]:
    """The caps of the gateways' cephx user: `mon` and `osd`."""
    (command,) = re.findall(r"^ceph auth get-or-create client\.rbdgate (.*) \\$", README.read_text(), re.MULTILINE)
    words = shlex.split(command)
    return dict(zip(words[::2], words[1::2], strict=True))


def etcd_commands(prefix: str) -> list[list[str]]:
    """The arguments of each `etcdctl` that makes the gateways' role and user and enables authentication, in order."""
    text = README.read_text().partition("<!-- etcd role")[2].partition("```\n")[2].partition("```")[0]
    lines = [line.partition("#")[0].split() for line in text.splitlines() if line.startswith("etcdctl ")]
    events = prefix.removesuffix("/") + ".events/"
    named = {DEFAULT_PREFIX: prefix, DEFAULT_PREFIX.removesuffix("/") + ".events/": events}
    return [[named.get(word, word) for word in words[1:]] for words in lines]
