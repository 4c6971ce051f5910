"""What a node's own disk holds before its first boot: who it is, its wires, its services, its settings.

Everything here is a file in the upper layer of the node's overlay; what all nodes share is in the tree.
"""

from __future__ import annotations

import configparser
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import run
from tests.lab.layout import CABLING, CONTROL, ETCD_ADDRESSES, Link, Node, Places, Role
from tests.lab.machine import disk_of
from tests.lab.tree import CHECKOUT

CEPH_USER = "rbdgate"
INITIATOR_IQN = "iqn.2026-11.io.rbdgate:"
SYSTEMD = "etc/systemd/system"

# Units that cost boot time or do harm in a node that is one process without hardware.
MASKED = (
    *("getty.target", "console-getty.service", "systemd-logind.service", "systemd-ask-password-wall.path"),
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "fstrim.timer",
        "e2scrub_all.timer",
    ),
    *(
        "e2scrub_reap.service",
        "systemd-tmpfiles-clean.timer",
        "systemd-pstore.service",
        "systemd-repart.service",
    ),
    *("systemd-remount-fs.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service"),
    *("systemd-firstboot.service", "systemd-machine-id-commit.service", "systemd-random-seed.service"),
    *("systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "systemd-pcrphase.service"),
    *("systemd-pcrphase-sysinit.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "systemd-journal-flush.service", "systemd-sysusers.service"),
)
# A gateway must never look at its guests' disks, and is nobody's initiator.
MASKED_ON_GATEWAYS = (
    *("open-iscsi.service", "iscsid.service", "iscsid.socket"),
    *("multipathd.service", "multipathd.socket", "dm-event.service", "dm-event.socket"),
)
ENABLED_ON_INITIATORS = ("iscsid.service", "multipathd.service")
MODULES = {
    Role.GATEWAY: (
        *("configfs", "target_core_mod", "iscsi_target_mod", "target_core_iblock", "tcm_loop"),
        *("rbd", "fuse", "veth", "bridge", "sd_mod", "sg", "ip_tables", "iptable_filter", "ip6table_filter"),
    ),
    Role.INITIATOR: (
        *("iscsi_tcp", "sd_mod", "sg", "dm-mod", "dm-multipath", "dm-round-robin", "dm-service-time"),
        *("veth", "bridge"),
    ),
}
SHIPPED = {
    "59-rbdgate.rules": "etc/udev/rules.d/59-rbdgate.rules",
    "multipath.conf": "etc/multipath/conf.d/rbdgate.conf",
    "sysctl.conf": "etc/sysctl.d/60-rbdgate.conf",
    "modules.conf": "etc/modules-load.d/rbdgate.conf",
}
"""What the package has for a gateway's own system, and where an installation puts it."""
_SSHD = """\
# rbdgate's lab: one key, no PAM (a session costs a second less), many commands over one connection.
UsePAM no
UseDNS no
PasswordAuthentication no
PermitRootLogin prohibit-password
HostKey /etc/ssh/lab_host_key
MaxSessions 200
MaxStartups 100
"""
_JOURNALD = """\
[Journal]
# The console is a file on the host: what a node said survives its power cut.
Storage=volatile
ForwardToConsole=yes
MaxLevelConsole=info
RateLimitIntervalSec=0
"""
_NETWORK_UNIT = f"""\
[Unit]
Description=Network of a lab node
DefaultDependencies=no
After=systemd-modules-load.service
Before=network-pre.target network.target sysinit.target
Wants=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip netns add {CABLING}
ExecStart=/usr/sbin/ip -batch /etc/lab/network
ExecStart=/usr/sbin/ip -n {CABLING} -batch /etc/lab/cabling
[Install]
WantedBy=sysinit.target
"""
_SYSTEM = """\
[Manager]
DefaultTimeoutStopSec=20s
"""
_MULTIPATH = """\
defaults {
    user_friendly_names no
    # Every disk of an initiator is a LUN with several paths, also while only one of them is up.
    find_multipaths no
}
overrides {
    # All paths of an image are at one gateway and equally good.
    path_grouping_policy multibus
    path_selector "round-robin 0"
    path_checker tur
    prio const
    detect_prio no
    failback immediate
    # While an image is between two gateways no path works: wait, do not fail.
    no_path_retry queue
    detect_checker no
}
devices {
    device {
        vendor ".*"
        product ".*"
        # User-Mode Linux has no scsi_dh_alua, which multipath's own table names for LIO.
        hardware_handler "0"
    }
}
"""


@dataclass(frozen=True)
class Keys:
    """The lab's own ssh keys: `user` opens the nodes, `host` is what every node shows. Public parts end in .pub."""

    user: Path
    host: Path


@dataclass(frozen=True)
class CephAccess:
    """What a gateway is given to reach Ceph: the cluster's configuration and the keyring of client.rbdgate."""

    conf: Path
    keyring: Path


def furnish(node: Node, places: Places, keys: Keys, ceph: CephAccess | None) -> None:
    """Write the node's files into the upper layer of its overlay; a gateway also gets its way to Ceph, if given."""
    upper = Upper(places.home(node) / "upper")
    _identity(upper, node, places)
    _access(upper, keys)
    _services(upper, node)
    if node.role is Role.INITIATOR:
        _initiator(upper, node)
    else:
        _gateway(upper, node, ceph)
        _secrets_key(upper, keys)


KEPT_BY_OTHERS = ("etcd", "prometheus")
"""Directories in /var/lib of services that are not root."""

DISK_SIZE = "1G"  # sparse


def furnish_fresh(node: Node, places: Places, keys: Keys) -> None:
    """Write what makes the node a machine of its own that can be reached, and nothing that rbdgate or iSCSI needs."""
    upper = Upper(places.home(node) / "upper")
    _identity(upper, node, places)
    _access(upper, keys)
    _system(upper, ("veth", "bridge"), MASKED)
    _disk(upper, places.home(node))


def _disk(upper: Upper, home: Path) -> None:
    """An ext4 disk for what services that are not root keep; their packages give the directories away."""
    kept = home / "kept"
    for name in KEPT_BY_OTHERS:
        (kept / name).mkdir(parents=True)
    run(["mkfs.ext4", "-q", "-d", str(kept), str(disk_of(home)), DISK_SIZE])
    shutil.rmtree(kept)
    lines = ["/dev/ubda /disk ext4 defaults 0 0"]
    lines += [f"/disk/{name} /var/lib/{name} none bind 0 0" for name in KEPT_BY_OTHERS]
    upper.write("etc/fstab", "".join(f"{line}\n" for line in lines))


@dataclass(frozen=True)
class Upper:
    """The upper layer of a node's overlay, as a place to put files."""

    root: Path

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write one file, with its directories."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(mode=mode)
        place.chmod(mode)
        place.write_text(text)

    def link(self, path: str, target: str) -> None:
        """Make one symbolic link, with its directories."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)


def _identity(upper: Upper, node: Node, places: Places) -> None:
    upper.write("etc/hostname", node.name + "\n")
    upper.write("etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {node.name}\n")
    upper.write("etc/machine-id", hashlib.sha256(f"{places.data} {node.name}".encode()).hexdigest()[:32] + "\n")
    upper.write("etc/fstab", "")
    bridged = [link for link in node.links if link.network.bridged_inside]
    for name, lines in (
        ("network", [line for link in node.links for line in _link_lines(link)]),
        ("cabling", [line for link in bridged for line in _cabling_lines(link)]),
    ):
        upper.write(f"etc/lab/{name}", "".join(line + "\n" for line in lines))


def _link_lines(link: Link) -> list[str]:
    """Lines for `ip -batch`: the interface bears its network's name, and a storage interface can lose its carrier.

    User-Mode Linux's card never loses its carrier. So a storage interface is one end of a veth pair, and the other
    end, `cable-N`, is bridged to the card: when `cable-N` goes down, the kernel sees what a pulled cable would show.
    """
    name, card = link.network.name, f"vec{link.index}"
    lines = ["link set lo up"] if link.network is CONTROL else []
    if link.network.bridged_inside:
        cable = link.network.cable
        lines += [
            f"link set {card} netns {CABLING}",
            f"link add {name} address {_other_mac(link.mac)} type veth peer name {cable} netns {CABLING}",
        ]
    else:
        lines += [f"link set {card} name {name}"]
    lines += [f"link set {name} up", f"address add {link.v4}/24 dev {name}"]
    if link.v6:
        lines.append(f"address add {link.v6}/64 dev {name} nodad")
    return lines


def _cabling_lines(link: Link) -> list[str]:
    """Lines for `ip -batch` in the node's second namespace: the card and the cable on one bridge.

    Apart from the node's own namespace, or the bridge would answer ARP for the addresses of a pulled cable.
    """
    card, bridge = f"vec{link.index}", f"switch-{link.index}"
    return [
        f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {bridge} addrgenmode none up",
        *(f"link set {name} addrgenmode none master {bridge} up" for name in (card, link.network.cable)),
    ]


def _other_mac(mac: str) -> str:
    """The storage interface's address, another one than its card's."""
    return mac.replace("02:77:", "02:78:", 1)


def _access(upper: Upper, keys: Keys) -> None:
    (upper.root / "root/.ssh").mkdir(parents=True)
    (upper.root / "root").chmod(0o700)
    (upper.root / "root/.ssh").chmod(0o700)
    upper.write("root/.ssh/authorized_keys", keys.user.with_suffix(".pub").read_text(), 0o600)
    upper.write("etc/ssh/lab_host_key", keys.host.read_text(), 0o600)
    upper.write("etc/ssh/sshd_config", _SSHD)


def _services(upper: Upper, node: Node) -> None:
    gateway = node.role is Role.GATEWAY
    _system(upper, MODULES[node.role], (*MASKED, *(MASKED_ON_GATEWAYS if gateway else ())))
    for unit in () if gateway else ENABLED_ON_INITIATORS:
        upper.link(f"{SYSTEMD}/multi-user.target.wants/{unit}", f"/lib/systemd/system/{unit}")


def _system(upper: Upper, modules: tuple[str, ...], masked: tuple[str, ...]) -> None:
    """What every node's systemd is told: what not to run, its network, its journal, the modules to load at boot."""
    for unit in masked:
        upper.link(f"{SYSTEMD}/{unit}", "/dev/null")
    upper.write(f"{SYSTEMD}/lab-network.service", _NETWORK_UNIT)
    upper.link(f"{SYSTEMD}/sysinit.target.wants/lab-network.service", f"/{SYSTEMD}/lab-network.service")
    # A kernel that starts anew in the same process finds its taps taken by itself: a reboot ends as off instead.
    upper.link(f"{SYSTEMD}/reboot.target", "/lib/systemd/system/poweroff.target")
    upper.link(f"{SYSTEMD}/default.target", "/lib/systemd/system/multi-user.target")
    upper.write("etc/systemd/journald.conf.d/lab.conf", _JOURNALD)
    upper.write("etc/systemd/system.conf.d/lab.conf", _SYSTEM)
    upper.write("etc/modules-load.d/lab.conf", "".join(f"{module}\n" for module in modules))


def _initiator(upper: Upper, node: Node) -> None:
    """The initiator's name and dm-multipath; open-iscsi's own settings stay Debian's."""
    upper.write("etc/iscsi/initiatorname.iscsi", f"InitiatorName={INITIATOR_IQN}{node.name}\n", 0o600)
    upper.write("etc/multipath.conf", _MULTIPATH)


def _gateway(upper: Upper, node: Node, ceph: CephAccess | None) -> None:
    # The module takes its dbroot when it is loaded: /etc/target if that exists, else /var/target.
    (upper.root / "etc/target/pr").mkdir(parents=True)
    endpoints = ", ".join(f'"http://{address}:2379"' for address in ETCD_ADDRESSES)
    upper.write(
        "etc/rbdgate/rbdgate.toml",
        f'node = "{node.name}"\n\n[etcd]\nendpoints = [{endpoints}]\n\n[ceph]\nconf = "/etc/ceph/ceph.conf"\n'
        f'user = "{CEPH_USER}"\nkeyring = "/etc/ceph/ceph.client.{CEPH_USER}.keyring"\n',
    )
    for rules in ("etc/udev/rules.d/60-multipath.rules", "etc/modules-load.d/multipath.conf"):
        upper.link(rules, "/dev/null")
    for shipped, place in SHIPPED.items():
        upper.write(place, (CHECKOUT / "gateway/doctor/host" / shipped).read_text())
    if ceph is None:
        return
    upper.write("etc/ceph/ceph.conf", _client_conf(ceph.conf))
    keyring = upper.root / f"etc/ceph/ceph.client.{CEPH_USER}.keyring"
    shutil.copy(ceph.keyring, keyring)
    keyring.chmod(0o600)


def _secrets_key(upper: Upper, keys: Keys) -> None:
    """The key of the cluster's secrets: one for all gateways of a lab, and another in each lab."""
    upper.write("etc/rbdgate/secrets.key", hashlib.sha256(keys.user.read_bytes()).hexdigest() + "\n", 0o600)


def _client_conf(conf: Path) -> str:
    """The part of the cluster's configuration that a client on another machine needs."""
    whole = configparser.ConfigParser(interpolation=None)
    whole.read(conf)
    wanted = ("fsid", "mon_host", "auth_cluster_required", "auth_service_required", "auth_client_required")
    lines = [f"\t{key} = {whole['global'][key]}\n" for key in wanted if key in whole["global"]]
    objecter = [f"\t{key} = {value}\n" for key, value in whole.items("client") if key.startswith("objecter")]
    return "[global]\n" + "".join(lines) + "\n[client]\n" + "".join(objecter)
