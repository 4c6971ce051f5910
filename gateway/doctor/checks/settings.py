"""Is the settings file there and right, and can nobody else write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Subject, Unread

SETTINGS = Subject("settings")


@dataclass(frozen=True)
class SettingsFacts:
    """The file's path, its permission bits and its owner's number; `node` is its node's name, if it is right."""

    path: str
    mode: int | Unread
    owner: int | Unread
    node: str | Unread


def check(facts: SettingsFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    if isinstance(facts.node, Unread):
        yield SETTINGS.error(facts.node.why, f"put {facts.path} right; `gateway/cli/README.md` has every key")
    else:
        yield SETTINGS.ok(f"{facts.path} is right; this is node {facts.node}")
    yield from _writers(facts)


def _writers(facts: SettingsFacts) -> Iterator[Finding]:
    if isinstance(facts.mode, Unread) or isinstance(facts.owner, Unread):
        return  # that the file cannot be read is said already
    if facts.mode & 0o022 or facts.owner != 0:
        yield SETTINGS.error(
            f"{facts.path} can be written by others than root (mode {facts.mode:04o}, owner {facts.owner}): who writes"
            " it chooses which etcd this gateway believes",
            f"`chown root: {facts.path}; chmod 644 {facts.path}`",
        )
