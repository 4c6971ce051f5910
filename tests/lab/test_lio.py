"""LIO in a real kernel: exports that a real initiator sees as the spec has them, and that come and go cleanly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the plugin below imports it, and pytest wants to be the first
    from tests.lab.bare import Rooms

pytest_plugins = ("tests.lab.bare",)

IQN = "iqn.2026-11.io.rbdgate:room1"
TREE = "/sys/kernel/config/target"

LOGIN = "iscsiadm -m discovery -t st -p 10.77.1.100 && iscsiadm -m node -l && udevadm settle && echo logged in"
DIAGNOSIS = "ip -br address; ip neigh; ss -tn; iscsiadm -m node; dmesg | tail -n 30"

SPEC = """
def spec(number=1, paths=("10.77.1.100", "fd77:2::100"), initiators=("ini1",), **attributes):
    return ImageSpec(
        ImageName("rbd", f"room{number}"), f"{number:016x}", "10ab", 64 << 20,
        Identity(Iqn(f"iqn.2026-11.io.rbdgate:room{number}"), f"6001405a-0000-4000-8000-{number:012d}",
                 vendor="ACME", product="Old Array", revision="7.1"),
        tuple(Path(tag, A(address), Label(f"storage-{tag}")) for tag, address in enumerate(paths, 1)),
        tuple(Iqn(f"iqn.2026-11.io.rbdgate:{name}") for name in initiators),
        DeviceAttributes(**attributes),
    )

def open_to(it):
    return Access(dict.fromkeys(it.initiators))

def export(it, disk="/dev/ram0", token=7, access=None):
    lio.build(it, DeviceName(it.uid, token), disk, access or open_to(it))
    for path in it.paths:
        network.add_address(str(path.network), path.address)
        lio.open_portal(it.identity.iqn, path)
        network.announce(str(path.network), path.address)

def withdraw(it):
    network.remove_addresses([path.address for path in it.paths])
    lio.disable(it.identity.iqn)
    lio.teardown(it.uid, [it.identity.iqn])

def lacks(it, access=None):
    device = next((d for d in lio.observe_devices() if d.name.uid == it.uid), None)
    target = lio.observe_target(it.identity.iqn)
    return (*differences(it, device, target), *access_differences(access or open_to(it), target))

s = spec()
q = s.identity.iqn
"""


@pytest.fixture
def gw(rooms: Rooms) -> Rooms:
    """The rooms with nothing exported on gw1 and nobody logged in."""
    clean(rooms)
    return rooms


def clean(rooms: Rooms) -> None:
    """Log everybody out and take everything of the tests down."""
    rooms.sh("ini1", "iscsiadm -m node -u; iscsiadm -m node -o delete; true", check=False)
    rooms.python("gw1", SPEC, "for n in range(1, 9): withdraw(spec(n))")


def log_in(rooms: Rooms) -> dict[str, str]:
    """Log ini1 in to both paths; the SCSI generic device behind each portal's tag."""
    done = rooms.sh("ini1", f"timeout 50 sh -c '{LOGIN}' 2>&1 || {{ {DIAGNOSIS}; }}", check=False)
    assert "logged in" in done, done + rooms.sh("gw1", DIAGNOSIS, check=False)
    listing = rooms.sh(
        "ini1",
        "for s in /sys/class/iscsi_session/session*; do"
        " echo $(cat $s/tpgt) $(basename $(ls -d $s/device/target*/*:0/scsi_generic/sg*)); done",
    )
    return dict(line.split() for line in listing.splitlines())


def test_an_initiator_sees_the_disk_the_spec_describes(gw: Rooms) -> None:
    """Identity, NAA, limits, ALUA, tags and relative ports are those of the spec, over IPv4 and IPv6."""
    (lacking,) = gw.python("gw1", SPEC, "export(s); say(lacks(s))")
    assert lacking == []
    devices = log_in(gw)
    assert set(devices) == {"1", "2"}
    for tag, sg in devices.items():
        inquiry = gw.sh("ini1", f"sg_inq /dev/{sg}")
        assert "Vendor identification: ACME " in inquiry
        assert "Product identification: Old Array" in inquiry
        assert "Product revision level: 7.1" in inquiry
        assert "Unit serial number: 6001405a-0000-4000-8000-000000000001" in inquiry
        assert "TPGS=1  3PC=0" in inquiry
        pages = gw.sh("ini1", f"for p in di bl lbpv; do sg_vpd -p $p /dev/{sg}; done")
        assert "0x60014056001405a0000400080000000" in pages
        assert f"Relative target port: 0x{tag}" in pages
        assert f"{IQN},t,0x000{tag}" in pages
        assert "Maximum unmap LBA count: 65536" in pages
        assert "Optimal unmap granularity: 128" in pages
        assert "Maximum write same length: 0x2000" in pages
        assert "(LBPU): 1" in pages
        assert "(LBPRZ): 0" in pages
        assert "active/optimized" in gw.sh("ini1", f"sg_rtpg -d /dev/{sg}")
    (seen,) = gw.python(
        "gw1", SPEC, "say([[x.tag, str(x.initiator), str(x.peer), len(x.isid)] for x in lio.sessions(q)])"
    )
    assert seen == [
        [1, "iqn.2026-11.io.rbdgate:ini1", "10.77.1.61", 12],
        [2, "iqn.2026-11.io.rbdgate:ini1", "fd77:2::61", 12],
    ]


@pytest.mark.full
def test_blocks_of_4096_bytes_are_served(gw: Rooms) -> None:
    """The block size of the spec is what the initiator reads, and the limits follow it."""
    (lacking,) = gw.python("gw1", SPEC, "s = spec(block_size=4096); export(s); say(lacks(s))")
    assert lacking == []
    sg = log_in(gw)["1"]
    assert "Logical block length=4096" in gw.sh("ini1", f"sg_readcap -l /dev/{sg}")
    assert "Maximum unmap LBA count: 8192" in gw.sh("ini1", f"sg_vpd -p bl /dev/{sg}")


def test_an_export_before_its_portals_answers_nobody(gw: Rooms) -> None:
    """After the build nothing is enabled, no portal is there, and yet it is complete."""
    lacking, state = gw.python(
        "gw1",
        SPEC,
        "lio.build(s, DeviceName(s.uid, 7), '/dev/ram0', open_to(s)); say(lacks(s));"
        "say([[t.enabled, len(t.portals)] for t in lio.observe_target(q).tpgs])",
    )
    assert lacking == []
    assert state == [[False, 0], [False, 0]]


def test_initiators_come_and_go_while_others_stay(gw: Rooms) -> None:
    """A stranger sees nothing; once allowed it logs in; removed, its session ends and ini1's own stays the same."""
    gw.python("gw1", SPEC, "export(s)")
    log_in(gw)
    (before,) = gw.python("gw1", SPEC, "say([x.isid for x in lio.sessions(q)])")
    gw.sh(
        "ini1",
        "iscsiadm -m iface -I other -o new;"
        "iscsiadm -m iface -I other -o update -n iface.initiatorname -v iqn.2026-11.io.rbdgate:other",
    )
    try:
        discovery = "iscsiadm -m discovery -t st -p 10.77.1.100 -I other"
        assert IQN not in gw.sh("ini1", discovery, check=False)
        gw.python("gw1", SPEC, "lio.set_acls(q, {Iqn('iqn.2026-11.io.rbdgate:other'): None}, [], demanded=False)")
        assert IQN in gw.sh("ini1", f"{discovery} && iscsiadm -m node -I other -p 10.77.1.100 -l")
        (allowed,) = gw.python("gw1", SPEC, "say([str(x.initiator) for x in lio.sessions(q)])")
        assert sorted(allowed) == ["iqn.2026-11.io.rbdgate:ini1"] * 2 + ["iqn.2026-11.io.rbdgate:other"]
        gw.python("gw1", SPEC, "lio.set_acls(q, {}, [Iqn('iqn.2026-11.io.rbdgate:other')], demanded=False)")
        after, lacking = gw.python("gw1", SPEC, "say([x.isid for x in lio.sessions(q)]); say(lacks(s))")
        assert (after, lacking) == (before, [])
    finally:
        gw.sh(
            "ini1",
            "iscsiadm -m node -I other -u; iscsiadm -m node -I other -o delete; iscsiadm -m iface -I other -o delete",
            check=False,
        )


def test_a_path_goes_down_and_up_while_the_other_keeps_its_session(gw: Rooms) -> None:
    """Closing takes portal and session of one TPG only; LUN and ACLs stay; opening twice is as good as once."""
    gw.python("gw1", SPEC, "export(s)")
    log_in(gw)
    found = gw.python(
        "gw1",
        SPEC,
        """
        def state():
            say([lacks(s), [[t.enabled, len(t.portals)] for t in lio.observe_target(q).tpgs],
                 [x.tag for x in lio.sessions(q)]])
        lio.close_portal(q, 1); lio.close_portal(q, 1); state()
        lio.open_portal(q, s.paths[0]); lio.open_portal(q, s.paths[0]); time.sleep(5); state()
        """,
    )
    assert found[0] == [[], [[False, 0], [True, 1]], [2]]
    assert found[1] == [[], [[True, 1], [True, 1]], [1, 2]]


def test_a_stuck_device_keeps_nobody_else(gw: Rooms) -> None:
    """While a disable waits for commands of one device, looking and other images' work go on; then it ends."""
    gw.sh("gw1", "dmsetup create stuck --table '0 131072 linear /dev/ram0 0'")
    try:
        gw.python("gw1", SPEC, "export(s, '/dev/mapper/stuck')")
        sg = log_in(gw)["1"]
        gw.sh("gw1", "dmsetup suspend --noflush --nolockfs stuck")
        with gw.background("ini1", "sg_dd", "if=/dev/zero", f"of=/dev/{sg}", "bs=512", "count=8"):
            (found,) = gw.python(
                "gw1",
                SPEC,
                """
            time.sleep(1)
            closing = threading.Thread(target=lio.disable, args=(q,))
            closing.start()
            closing.join(1)
            found = {"waits": closing.is_alive()}
            found["look"] = took(lio.observe)
            found["lacks"] = lacks(s)
            other = spec(2, paths=("10.77.1.102",))
            found["other"] = took(export, other, "/dev/ram1") + took(withdraw, other)
            found["still waits"] = closing.is_alive()
            subprocess.run(["dmsetup", "resume", "stuck"], check=True)
            closing.join(30)
            found["waits at last"] = closing.is_alive()
            withdraw(s)
            say(found)
            """,
            )
        assert (found["waits"], found["still waits"], found["waits at last"]) == (True, True, False)
        assert found["lacks"] == []
        assert max(found["look"], found["other"]) < 0.5
    finally:
        gw.sh("gw1", "dmsetup resume stuck; dmsetup remove --retry stuck", check=False)


def test_what_was_torn_down_is_gone_and_can_be_built_again(gw: Rooms) -> None:
    """With sessions on it: no backstore, target or HBA of ours is left; a second time changes nothing."""
    gw.python("gw1", SPEC, "export(s)")
    log_in(gw)
    gw.python("gw1", SPEC, "withdraw(s); withdraw(s)")
    assert gw.sh("gw1", f"ls -d {TREE}/core/iblock_* {TREE}/iscsi/iqn.* 2>/dev/null; true") == ""
    (lacking,) = gw.python("gw1", SPEC, "export(s, token=8); say(lacks(s))")
    assert lacking == []


@pytest.mark.full
def test_leftovers_are_refused_by_the_build_and_removed_by_the_teardown(gw: Rooms) -> None:
    """Half a device, half a target: the build says what is there, the teardown takes it, then the build works."""
    said = gw.python(
        "gw1",
        SPEC,
        f"""
        from gateway.errors import Inconsistent, KernelRefused
        def refused():
            try:
                lio.build(s, DeviceName(s.uid, 9), "/dev/ram0", open_to(s))
            except Inconsistent as error:
                say(str(error))
            lio.teardown(s.uid, [q])
        os.makedirs(f"{TREE}/core/iblock_29282/{{DeviceName(s.uid, 5)}}")
        refused()
        os.makedirs(f"{TREE}/iscsi/{{q}}/tpgt_1/lun/lun_0")
        os.makedirs(f"{TREE}/iscsi/{{q}}/tpgt_1/acls/iqn.2026-11.io.rbdgate:x/lun_0")
        refused()
        try:
            lio.build(s, DeviceName(s.uid, 9), "/dev/no-such-disk", open_to(s))
        except KernelRefused as error:
            say(str(error))
        say(lacks(s))
        lio.teardown(s.uid, [q])
        export(s)
        say(lacks(s))
        """,
    )
    assert "backstore rbdgate.0000000000000001.5 is still there" in said[0]
    assert f"target {IQN} is there already" in said[1]
    assert "/enable" in said[2]
    assert "ENO" in said[2]
    assert f"there is no target {IQN}" in said[3]
    assert said[4] == []


@pytest.mark.full
def test_what_other_tools_made_is_left_alone(gw: Rooms) -> None:
    """A target of ours by name on somebody else's backstore is refused and stays whole."""
    said = gw.python(
        "gw1",
        SPEC,
        f"""
        from gateway.errors import Inconsistent
        core, tpg = "{TREE}/core/iblock_0/theirs", f"{TREE}/iscsi/{{q}}/tpgt_1"
        os.makedirs(core)
        for file, text in (("control", "udev_path=/dev/ram2"), ("enable", "1")):
            with open(f"{{core}}/{{file}}", "w") as f: f.write(text)
        os.makedirs(f"{{tpg}}/lun/lun_0")
        os.symlink(core, f"{{tpg}}/lun/lun_0/x")
        try:
            lio.teardown(s.uid, [q])
        except Inconsistent as error:
            say(str(error))
        devices, targets = lio.observe()
        say([len(devices), [str(t.iqn) for t in targets], targets[0].tpgs[0].device])
        os.unlink(f"{{tpg}}/lun/lun_0/x")
        lio.teardown(s.uid, [q])
        say(sorted(os.listdir("{TREE}/core/iblock_0")))
        os.rmdir(core); os.rmdir("{TREE}/core/iblock_0")
        """,
    )
    assert "core/iblock_0/theirs, which is no backstore of this image" in said[0]
    assert said[1] == [0, [IQN], None]
    assert "theirs" in said[2]


@pytest.mark.full
def test_a_stopped_holder_of_the_lock_is_named(gw: Rooms) -> None:
    """A process that was stopped with the lock is found by pid; when it is killed the lock is free."""
    (pid, text, name, free) = gw.python(
        "gw1",
        SPEC,
        """
        import pathlib, signal
        from gateway.errors import Stuck
        lock = lio.ConfigfsLock(pathlib.Path("/run/rooms.lock"))
        child = os.fork()
        if child == 0:
            with lio.ConfigfsLock(pathlib.Path("/run/rooms.lock")).held(1):
                os.kill(os.getpid(), signal.SIGSTOP)
        os.waitpid(child, os.WUNTRACED)
        say(child)
        try:
            with lock.held(0.2): pass
        except Stuck as error:
            say(str(error))
        say(lock.holder().pid)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with lock.held(1.0): say(True)
        """,
    )
    assert f"pid {pid} kept the lock" in text
    assert name == pid
    assert free


def test_a_node_that_is_not_ready_is_made_ready(gw: Rooms) -> None:
    """Without configfs mounted the check says what to do; afterwards all is as before."""
    said = gw.python(
        "gw1",
        """
        from gateway.errors import Unavailable
        lio.check()
        os.system("umount /sys/kernel/config")
        try:
            lio.check()
        except Unavailable as error:
            say(str(error))
        lio.ensure_modules()
        lio.check()
        say(lio.observe())
        """,
    )
    assert "mount -t configfs" in said[0]
    assert said[1] == [[], []]


@pytest.mark.full
def test_the_dump_has_everything_and_no_secret(gw: Rooms) -> None:
    """rtslib's dump lists backstore and target; a CHAP password set by hand does not show."""
    (dump,) = gw.python(
        "gw1",
        SPEC,
        f"""
        from gateway.lio.dump import dump
        export(s)
        for file, text in (("userid", "somebody"), ("password", "in-clear-text")):
            with open(f"{TREE}/iscsi/{{q}}/tpgt_1/auth/{{file}}", "w") as f: f.write(text)
        say(dump())
        """,
    )
    assert [entry["name"] for entry in dump["storage_objects"]] == ["rbdgate.0000000000000001.7"]
    assert [target["wwn"] for target in dump["targets"]] == [IQN]
    assert "in-clear-text" not in json.dumps(dump)
    assert "somebody" not in json.dumps(dump)


def test_an_export_comes_and_goes_in_a_fraction_of_a_second(gw: Rooms) -> None:
    """Build, open, look, close and teardown together take under 0.3 s on User-Mode Linux, with a session on it."""
    gw.python("gw1", SPEC, "export(s)")
    log_in(gw)
    (found,) = gw.python(
        "gw1",
        SPEC,
        """
        found = {"disable": took(lio.disable, q), "teardown": took(lio.teardown, s.uid, [q])}
        found["build"] = took(lio.build, s, DeviceName(s.uid, 8), "/dev/ram0", open_to(s))
        found["look"] = took(lio.observe)
        found["open"] = sum(took(lio.open_portal, q, path) for path in s.paths)
        found["close"] = sum(took(lio.close_portal, q, path.tag) for path in s.paths)
        say(found)
        """,
    )
    print({name: f"{1000 * seconds:.1f} ms" for name, seconds in found.items()})
    assert sum(found.values()) < 0.3
