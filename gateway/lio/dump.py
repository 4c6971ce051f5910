"""Everything LIO has, in rtslib's form, for a person or a bug report: reads only, and without secrets.

This is where rtslib-fb is right: its objects know every file, and speed does not matter here. `RTSRoot()` is avoided,
because its constructor mounts, loads modules and sets `dbroot`.
"""

from __future__ import annotations

from typing import Any

from rtslib_fb import FabricModule, RTSLibError
from rtslib_fb.tcm import StorageObject

from gateway.errors import KernelRefused

_SECRET = ("password", "userid")


def dump() -> dict[str, Any]:
    """All storage objects and iSCSI targets as `targetcli saveconfig` would write them, secrets replaced by `***`."""
    try:
        found = {
            "storage_objects": [entry.dump() for entry in StorageObject.all()],
            "targets": [target.dump() for target in FabricModule("iscsi").targets],
        }
    except (RTSLibError, OSError) as error:
        raise KernelRefused(f"rtslib cannot read LIO's state: {error}") from error
    return {key: without_secrets(value) for key, value in found.items()}


def without_secrets(value: Any) -> Any:  # noqa: ANN401 - rtslib's dump is untyped JSON
    """The same value with every CHAP user name and password masked."""
    if isinstance(value, dict):
        return {
            key: "***" if entry and any(word in key for word in _SECRET) else without_secrets(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(entry) for entry in value]
    return value
