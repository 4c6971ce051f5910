"""What the doctor says of a machine: kernel, settings, services, clocks and disks, each check with a good and a bad."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor.checks import clocks, disks, kernel, services, settings
from gateway.doctor.checks.clocks import ClockFacts
from gateway.doctor.checks.disks import DiskFacts, GuestDisk, Lvm, multipath_excludes, rejects
from gateway.doctor.checks.kernel import KernelFacts
from gateway.doctor.checks.services import AGENT, GUARD, UNITS, ServicesFacts, Unit
from gateway.doctor.checks.settings import SettingsFacts
from gateway.doctor.finding import Finding, Severity, Unread

UNREAD = Unread("something", "a reason")
BAD = (Severity.ERROR, Severity.WARNING)


def worst(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """What is not good, as (severity, text); each says what to do."""
    bad = [finding for finding in findings if finding.severity in BAD]
    assert all(finding.what_to_do for finding in bad)
    return [(finding.severity.value, finding.text) for finding in bad]


def only(findings: Iterable[Finding]) -> tuple[str, str]:
    """The one thing that is not good."""
    (bad,) = worst(findings)
    return bad


KERNEL = KernelFacts(
    release="6.1.0-18-amd64",
    required=("rbd", "target_core_mod", "tcm_loop", "sg", "fuse"),
    missing={},
    configfs=True,
    dbroot="/etc/target",
    pr_place="trap",
    aptpl=True,
    fuse_device=True,
    krbd=True,
)


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"release": "5.15.0-91-generic"}, "error", "too old"),
        ({"release": "what"}, "warning", "is none"),
        ({"missing": {"rbd": False}}, "error", "no module rbd: nothing can be served"),
        ({"missing": {"tcm_loop": False}}, "error", "no module tcm_loop: nothing can be served"),
        ({"missing": {"rbd": UNREAD}}, "warning", "could not be looked at"),
        ({"configfs": False}, "error", "configfs is not mounted"),
        ({"krbd": False}, "error", "add_single_major"),
        ({"pr_place": "nothing"}, "error", "/etc/target/pr does not exist"),
        ({"pr_place": "read-only"}, "error", "cannot be written"),
        ({"pr_place": "directory"}, "error", "the guard's file system is not mounted on /etc/target/pr"),
        ({"pr_place": "mount of tmpfs"}, "error", "a mount of tmpfs is on /etc/target/pr"),
        ({"dbroot": UNREAD}, "warning", "could not be looked at"),
        ({"aptpl": False}, "error", "no force_pr_aptpl"),
        ({"fuse_device": False}, "error", "/dev/fuse is not there"),
    ],
)
def test_a_kernel_that_lacks_something(change: dict[str, Any], severity: str, words: str) -> None:
    """Each thing a kernel may lack is told alone, as bad as it is."""
    assert worst(kernel.check(KERNEL)) == []
    found = only(kernel.check(replace(KERNEL, **change)))
    assert found[0] == severity
    assert words in found[1]


def test_a_kernel_before_the_agent_ever_ran() -> None:
    """What the agent will load and mount is no fault, and without a backstore force_pr_aptpl is not judged."""
    missing = dict.fromkeys(("configfs", "target_core_mod", "rbd", "fuse"), True)
    fresh = replace(KERNEL, missing=missing, configfs=False, dbroot=None, aptpl=None, fuse_device=False, krbd=False)
    assert worst(kernel.check(fresh)) == []


def test_the_settings_file() -> None:
    """A file that is wrong, or that others may write, is an error; one that only root writes is not."""
    good = SettingsFacts("/etc/rbdgate/rbdgate.toml", 0o644, 0, "gw1")
    assert worst(settings.check(good)) == []
    assert (
        only(settings.check(replace(good, node=Unread("it", "unknown key etcd.prefx"))))[1] == "unknown key etcd.prefx"
    )
    for others in (replace(good, mode=0o664), replace(good, mode=0o646), replace(good, owner=1000)):
        assert only(settings.check(others))[0] == "error"


def units(**changes: Unit) -> dict[str, Unit]:
    """Our own units as they should be, the others not there, and some as named (`_` for `-`, without `.service`)."""
    known = {name: Unit("not-found", "inactive", "") for name in UNITS}
    known |= {AGENT: Unit("loaded", "active", "enabled"), GUARD: Unit("loaded", "active", "enabled")}
    return known | {f"{name.replace('_', '-')}.service": unit for name, unit in changes.items()}


SERVICES = ServicesFacts(units(), 0.4, 0)


@pytest.mark.parametrize(
    ("changed", "severity", "words"),
    [
        ({"rbdgate_agent": Unit("not-found", "inactive", "")}, "error", "is not installed"),
        ({"rbdgate_agent": Unit("loaded", "activating", "enabled")}, "error", "is activating"),
        ({"rbdgate_guard": Unit("loaded", "active", "disabled")}, "warning", "does not start at boot"),
        ({"target": Unit("loaded", "inactive", "enabled")}, "error", "restores targets of its own"),
        ({"rtslib_fb_targetctl": Unit("loaded", "active", "enabled")}, "error", "restores targets of its own"),
        ({"rbd_target_gw": Unit("loaded", "active", "disabled")}, "error", "ceph-iscsi"),
        ({"tgt": Unit("loaded", "active", "enabled")}, "error", "3260"),
    ],
)
def test_services_in_the_way(changed: dict[str, Unit], severity: str, words: str) -> None:
    """Our own services must run and come back, and a service that builds targets of its own is an error."""
    assert worst(services.check(SERVICES)) == []
    found = only(services.check(replace(SERVICES, units=units(**changed))))
    assert found[0] == severity
    assert words in found[1]


def test_a_rival_is_not_called_good() -> None:
    """That nothing is in the way is said where nothing is, and not where something is."""
    words = "no other target's service"
    rival = replace(SERVICES, units=units(tgt=Unit("loaded", "active", "enabled")))
    assert any(words in finding.text for finding in services.check(SERVICES))
    assert not any(words in finding.text for finding in services.check(rival))


def test_a_rival_that_is_not_enabled_is_none() -> None:
    """target.service that is installed and disabled restores nothing."""
    assert worst(services.check(replace(SERVICES, units=units(target=Unit("loaded", "inactive", "disabled"))))) == []


def test_a_service_that_stops_targets_is_not_to_be_stopped() -> None:
    """For target.service the advice is to disable it and never to stop it, which would remove all targets."""
    enabled = units(target=Unit("loaded", "active", "enabled"))
    (told,) = [f for f in services.check(replace(SERVICES, units=enabled)) if f.severity is Severity.ERROR]
    assert "--now" not in told.what_to_do
    assert "do not stop it" in told.what_to_do


def test_rbdmap() -> None:
    """rbdmap matters only where it is enabled and has images to map."""
    enabled = replace(SERVICES, units=units(rbdmap=Unit("loaded", "active", "enabled")))
    assert worst(services.check(enabled)) == []
    assert only(services.check(replace(enabled, rbdmap_entries=2)))[0] == "warning"


@pytest.mark.parametrize(("age", "severity"), [(None, "error"), (31.0, "error"), (UNREAD, "warning")])
def test_the_guards_sign_of_life(age: float | Unread | None, severity: str) -> None:
    """A guard that is silent, or was for long, is an error; a sign that cannot be read is not known to be bad."""
    assert only(services.check(replace(SERVICES, guard_sign_age=age)))[0] == severity


def test_without_systemd() -> None:
    """Where systemd does not answer, that is said, and the guard's sign is judged all the same."""
    found = worst(services.check(replace(SERVICES, units=UNREAD, guard_sign_age=None)))
    assert [severity for severity, _ in found] == ["warning", "error"]


def test_clocks() -> None:
    """A clock nobody disciplines, and a member's that is apart, are warnings; a second's difference is none."""
    assert worst(clocks.check(ClockFacts(synchronised=True, ahead={"10.0.0.1:2379": 1.3, "10.0.0.2:2379": -0.9}))) == []
    bad = ClockFacts(synchronised=False, ahead={"10.0.0.1:2379": 61.0, "10.0.0.2:2379": -61.0, "10.0.0.3:2379": UNREAD})
    texts = [text for _, text in worst(clocks.check(bad))]
    assert "not synchronised" in texts[0]
    assert "61 s ahead of" in texts[1]
    assert "61 s behind" in texts[2]
    assert "could not be looked at" in texts[3]


RULES = (Path(disks.__file__).parents[1] / "host" / disks.RULE).read_text()
MULTIPATH = 'blacklist {\n\tdevnode "!^(sd[a-z]|dasd[a-z]|nvme[0-9])"\n\tdevice {\n\t\tvendor "SGI"\n\t}\n}\n'
DISKS = DiskFacts(
    rule=RULES,
    shipped=RULES,
    shipped_at="/opt/host",
    lvm=Lvm(('["r|^/dev/rbd|","a|.*|"]', '["a|.*|"]'), devices_file=False),
    mdadm=True,
    multipath_config=MULTIPATH,
    multipathd=True,
    os_prober=False,
    guests=(GuestDisk("/dev/rbd1", (), marked=True),),
)


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"rule": None}, "error", "is not installed"),
        ({"rule": ""}, "error", "is not installed"),  # as a link to /dev/null, which masks it
        ({"rule": "# mine"}, "warning", "not the one of this version"),
        ({"rule": UNREAD}, "warning", "could not be looked at"),
        ({"guests": (GuestDisk("/dev/rbd1", ("dm-0 (vg-lv)",), marked=True),)}, "error", "dm-0 (vg-lv) uses it"),
        ({"guests": (GuestDisk("/dev/rbd1", (), marked=False),)}, "warning", "has not applied"),
        ({"guests": UNREAD}, "warning", "could not be looked at"),
        ({"lvm": Lvm(('["a|.*|"]', '["a|.*|"]'), devices_file=False)}, "warning", "LVM looks at /dev/rbd*"),
        ({"lvm": UNREAD}, "warning", "could not be looked at"),
        ({"multipath_config": 'blacklist {\n\tdevnode "^sd"\n}\n'}, "error", "multipathd runs"),
        ({"multipath_config": "blacklist {\n}\n", "multipathd": False}, "warning", "does not run"),
        ({"os_prober": True}, "warning", "os-prober"),
    ],
)
def test_who_may_touch_guests_disks(change: dict[str, Any], severity: str, words: str) -> None:
    """Whatever may touch a guest's disk is told alone; what already does is an error."""
    assert worst(disks.check(DISKS)) == []
    found = only(disks.check(replace(DISKS, **change)))
    assert found[0] == severity
    assert words in found[1]


def test_a_machine_without_those_programs() -> None:
    """Without LVM, mdadm and multipath there is nothing to warn about."""
    bare = replace(DISKS, lvm=None, mdadm=False, multipath_config=None, multipathd=False, guests=())
    assert worst(disks.check(bare)) == []


@pytest.mark.parametrize(
    ("text", "rejected"),
    [
        ('["a|.*|"]', False),
        ('["r|^/dev/rbd.*|"]', True),
        ('["a|/dev/sda|","r|.*|"]', True),
        ('["a|rbd|","r|.*|"]', False),
        ('["r/rbd[0-9]*/"]', True),
        ('["r|(|"]', False),
        ("", False),
    ],
)
def test_an_lvm_filter(text: str, rejected: bool) -> None:
    """The first pattern that matches decides; a device no pattern matches is taken."""
    assert rejects(text, "/dev/rbd0") is rejected


@pytest.mark.parametrize(
    ("config", "excluded"),
    [
        (MULTIPATH, True),
        ('blacklist {\n\tdevnode "^rbd[0-9]"\n}\n', True),
        ('blacklist {\n\tdevnode "^rbd[0-9]"\n}\nblacklist_exceptions {\n\tdevnode "^rbd"\n}\n', False),
        ("blacklist {\n\tdevnode ^rbd\n}\n", True),
        ('blacklist_exceptions {\n\tdevnode "^rbd"\n}\n', False),
        ('blacklist {\n\tdevnode "("\n}\n', False),
    ],
)
def test_a_multipath_blacklist(config: str, excluded: bool) -> None:
    """An inverted pattern covers what it does not match, and an exception goes before the blacklist."""
    assert multipath_excludes(config) is excluded


def test_the_rule_sorts_before_those_it_prevents() -> None:
    """udev reads rules files by name: ours comes before the ones that watch a disk and that read it."""
    others = ["60-persistent-storage.rules", "60-block.rules", "60-multipath.rules", "64-md-raid-assembly.rules"]
    assert min([*others, disks.RULE]) == disks.RULE
