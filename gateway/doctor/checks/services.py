"""Do our own services run, and does nothing on this machine run that would meddle with LIO or krbd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.doctor.finding import Finding, Severity, Subject, Unread
from gateway.timers import GUARD_STALE

SERVICES = Subject("services")

AGENT, GUARD = "rbdgate-agent.service", "rbdgate-guard.service"


@dataclass(frozen=True)
class Rival:
    """A service that has no business on a gateway: when it is a fault, how bad, why, and what to do."""

    unit: str
    when: str
    severity: Severity
    why: str
    what_to_do: str


_NOT_STOPPED = "(do not stop it while images are served: stopping it removes every target)"
RIVALS = (
    *(
        Rival(
            unit,
            "enabled",
            Severity.ERROR,
            "restores targets of its own at boot, which no other gateway knows of",
            f"`systemctl disable {unit}` {_NOT_STOPPED}",
        )
        for unit in ("target.service", "rtslib-fb-targetctl.service", "targetclid.service", "targetclid.socket")
    ),
    *(
        Rival(
            unit,
            "active",
            Severity.ERROR,
            "is ceph-iscsi's, which builds targets of its own in LIO",
            f"move its images away, then `systemctl disable --now {unit}`",
        )
        for unit in ("rbd-target-gw.service", "rbd-target-api.service")
    ),
    Rival(
        "tgt.service",
        "active",
        Severity.ERROR,
        "is another iSCSI target and takes port 3260 on every address",
        "`systemctl disable --now tgt.service`",
    ),
)
"""Services that meddle with what is ours."""

UNITS = (AGENT, GUARD, "rbdmap.service", *(rival.unit for rival in RIVALS))


@dataclass(frozen=True)
class Unit:
    """A unit as systemd shows it: its LoadState, ActiveState and UnitFileState."""

    load: str
    active: str
    file_state: str

    @property
    def enabled(self) -> bool:
        """Whether it starts at boot."""
        return self.file_state in ("enabled", "enabled-runtime", "linked", "static", "alias")


@dataclass(frozen=True)
class ServicesFacts:
    """The units; how many seconds ago the guard gave its sign of life (None: never); how many images rbdmap maps."""

    units: Mapping[str, Unit] | Unread
    guard_sign_age: float | Unread | None
    rbdmap_entries: int | Unread


def check(facts: ServicesFacts) -> Iterator[Finding]:
    """All checks of this subject."""
    if isinstance(facts.units, Unread):
        yield SERVICES.unread(facts.units, "look at them with this machine's own tools")
    else:
        yield from _own(facts.units)
        yield from _rivals(facts.units)
        yield from _rbdmap(facts.units, facts.rbdmap_entries)
    yield from _guard_sign(facts.guard_sign_age)


def _own(units: Mapping[str, Unit]) -> Iterator[Finding]:
    for name, purpose in ((AGENT, "serves images"), (GUARD, "ends what this node may not serve any more")):
        unit = units[name]
        if unit.load != "loaded":
            yield SERVICES.error(
                f"{name}, which {purpose}, is not installed ({unit.load})",
                "copy the units as README's chapter on a gateway by hand says, then `systemctl daemon-reload`",
            )
            continue
        if unit.active != "active":
            yield SERVICES.error(
                f"{name}, which {purpose}, is {unit.active}", f"`systemctl start {name}`; see `journalctl -u {name}`"
            )
        else:
            yield SERVICES.ok(f"{name} is active")
        if not unit.enabled:
            yield SERVICES.warning(f"{name} does not start at boot ({unit.file_state})", f"`systemctl enable {name}`")


def _rivals(units: Mapping[str, Unit]) -> Iterator[Finding]:
    faults = [rival for rival in RIVALS if _is_rival(rival, units[rival.unit])]
    for rival in faults:
        text = f"{rival.unit} is {rival.when} and {rival.why}"
        yield Finding(SERVICES.name, rival.severity, text, rival.what_to_do)
    if not faults:
        yield SERVICES.ok("no other target's service is in the way")


def _is_rival(rival: Rival, unit: Unit) -> bool:
    return unit.load == "loaded" and (unit.enabled if rival.when == "enabled" else unit.active == "active")


def _rbdmap(units: Mapping[str, Unit], entries: int | Unread) -> Iterator[Finding]:
    unit = units["rbdmap.service"]
    if unit.load != "loaded" or not unit.enabled:
        return
    if isinstance(entries, Unread):
        yield SERVICES.unread(entries)
    elif entries:
        yield SERVICES.warning(
            f"rbdmap.service maps {entries} image(s) of its own at boot (/etc/ceph/rbdmap)",
            "see that none of them is an image of this cluster, or `systemctl disable rbdmap.service`",
        )


def _guard_sign(age: float | Unread | None) -> Iterator[Finding]:
    if isinstance(age, Unread):
        yield SERVICES.unread(age)
    elif age is None:
        yield SERVICES.error("the guard gives no sign of life: nothing is served", f"`systemctl start {GUARD}`")
    elif age > GUARD_STALE:
        yield SERVICES.error(
            f"the guard's last sign of life is {age:.0f} s old: nothing is served",
            f"`systemctl restart {GUARD}`; see `journalctl -u {GUARD}`",
        )
    else:
        yield SERVICES.ok("the guard gives signs of life")
