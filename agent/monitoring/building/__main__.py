"""Writes every dashboard's JSON into the package."""

from __future__ import annotations

from agent.monitoring.building import DIRECTORY, texts

for name, text in texts().items():
    (DIRECTORY / name).write_text(text, encoding="utf-8")
