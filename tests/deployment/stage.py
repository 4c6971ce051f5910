"""The lab's site: its inventory, made of the example that the collection ships, and what an operator sees of it."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deployment.controller import COLLECTION, ROOT, Controller, lay_out
from tests.deployment.fresh import PORT, SERVER
from tests.lab import package, tree
from tests.lab.cluster import Lab
from tests.lab.layout import PORTAL_RANGES, Node, Role
from tests.lab.making import ceph_of
from tests.lab.ssh import trusted

POOL = "vm"
"""The pool the role makes; Ceph's default rule finds no OSD in the lab, so it is told another."""

ADMIN = "ceph-admin"
WATCHER = "gw1"
"""Where Prometheus is: initiators do not reach the metrics' network."""
EXAMPLE = COLLECTION / "examples"
DASHBOARDS = "/var/lib/dashboards"


@dataclass(frozen=True)
class Site:
    """A lab of fresh hosts and the controller that plays to them; `served` is what the hosts fetch packages from."""

    lab: Lab
    controller: Controller
    served: Path

    def offer(self, version: str, checkout: Path = ROOT) -> Path:
        """Build the wheel of a checkout under that version, and put it where hosts find it; its path here."""
        whole = tree.ready(tree.Recipe.of(ROOT), print)
        directory = self.lab.places.data / "built" / version
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        wheel = package.build_wheel(whole, directory, version, checkout)
        shutil.copy(wheel, self.served / "wheels")
        return wheel

    def furnish(self, **variables: object) -> None:
        """Write the inventory: the example's variables, then what is otherwise in the lab, then those given."""
        place, home = self.controller.inventory, self.controller.home
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(EXAMPLE, place)
        password = home / "vault-password"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16))
        vault = place / "group_vars/all/vault.yml"
        kept = {"vault_etcd_password": self.secret("etcd-password"), "vault_secrets_key": self.secret("secrets-key")}
        vault.write_text(json.dumps(kept))
        self.controller.encrypt(vault)
        # JSON is YAML; what is written here is for Ansible alone.
        (place / "inventory.yml").write_text(json.dumps(self._inventory(), indent=1))
        self._own.write_text(json.dumps(self._differences()))
        self.vary(**variables)

    def vary(self, **variables: object) -> None:
        """Set these variables of the inventory; the others stay."""
        self._own.write_text(json.dumps(json.loads(self._own.read_text()) | variables, indent=1))

    @property
    def _own(self) -> Path:
        """The last file of group_vars/all that Ansible reads."""
        return self.controller.inventory / "group_vars/all/zz_lab.yml"

    def secret(self, name: str) -> str:
        """A secret of that name (32 bytes in hex): as long as the lab lives, and told to nobody but the vault."""
        file = self.controller.home / name
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_hex(32))
        return file.read_text()

    def rbdgate(self, *words: str, node: str = "gw1", within: float = 120) -> Any:
        """Run `rbdgate ... --json` on a gateway; what it printed."""
        said = self.lab.exec(node, "rbdgate", *words, "--json", timeout=within).stdout
        return json.loads(said) if said.strip() else None

    def etcdctl(self, *words: str, password: str = "") -> subprocess.CompletedProcess[str]:
        """`etcdctl` on the first gateway as a gateway: with its certificate, and its password or another one."""
        tls = "/etc/rbdgate/etcd"
        script = f'ETCDCTL_USER="rbdgate:$(cat {"/dev/stdin" if password else f"{tls}/password"})" exec etcdctl "$@"'
        options = (f"--cacert={tls}/ca.crt", f"--cert={tls}/client.crt", f"--key={tls}/client.key")
        asked = ("sh", "-c", script, "sh", "--endpoints=https://10.77.0.101:2379", *options, *words)
        return self.lab.exec("gw1", *asked, input=password, check=False)

    def asked(self, query: str) -> int:
        """How many series Prometheus has for that."""
        words = ("promtool", "query", "instant", "http://127.0.0.1:9090", query)
        return str(self.lab.exec(WATCHER, *words).stdout).count(" => ")

    def _differences(self) -> dict[str, object]:
        ceph = ceph_of(self.lab.places)
        ranges = {name: text.split(",") for name, text in PORTAL_RANGES.items() if name != "six"}
        return {
            "gateway_wheel": "",
            "gateway_pip_arguments": [
                *("--no-index", "--find-links", f"http://{SERVER}:{PORT}/wheels/", "--trusted-host", SERVER),
            ],
            "gateway_networks": [
                {"name": name, "cidr": cidr, "first": span.split("-")[0], "last": span.split("-")[1]}
                for name, (cidr, span) in ranges.items()
            ],
            "gateway_anchor_pool": POOL,
            # This kernel has no nftables for IP; `test_firewall.py` tries the table on one that has.
            "gateway_firewall": False,
            "etcd_firewall_sources": [],
            "gateway_ntp_servers": [SERVER],
            "gateway_metrics_sources": [],
            "monitoring_scrape_interval": "5s",
            "monitoring_grafana_dashboards": DASHBOARDS,
            # Grafana is not to be had here, so neither its directories are there nor its unit.
            "monitoring_grafana_service": "",
            "monitoring_grafana_provisioning": f"{DASHBOARDS}/provisioning.yml",
            "ceph_client_admin_host": ADMIN,
            "ceph_client_admin_command": ["ceph", "-c", str(ceph.conf), "--keyring", str(ceph.admin_keyring)],
            "ceph_client_pools": [{"name": POOL, "pg_num": 8, "rule": "only-0"}],
        }

    def _inventory(self) -> dict[str, object]:
        gateways = [node for node in self.lab.nodes if node.role is Role.GATEWAY]
        initiators = [node for node in self.lab.nodes if node.role is Role.INITIATOR]
        keys = self.lab.places.data / "keys"
        options = trusted(keys)
        groups: dict[str, object] = {
            "gateways": {"hosts": {node.name: _gateway(node) for node in gateways}},
            "etcd": {"hosts": {node.name: {} for node in gateways[:3]}},
            "monitoring": {"hosts": {WATCHER: {}}},
            "initiators": {"hosts": {node.name: {"ansible_host": node.control} for node in initiators}},
        }
        local = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        return {
            "all": {
                "hosts": {ADMIN: local},
                "children": groups,
                "vars": {
                    "ansible_user": "root",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "ansible_ssh_common_args": " ".join(f"-o {key}={value}" for key, value in options.items()),
                },
            }
        }


def _gateway(node: Node) -> dict[str, object]:
    mgmt = node.link("mgmt").v4
    return {"ansible_host": node.control, "etcd_address": mgmt, "gateway_address": mgmt}


def open_site(lab: Lab, served: Path) -> Site:
    """The site of a lab of fresh hosts, with the collection laid out for its controller."""
    home = lab.places.data / "controller"
    home.mkdir(mode=0o700)
    lay_out(home)
    return Site(lab, Controller(home, ("nsenter", f"--net=/run/netns/{lab.places.netns}")), served)


def previous(place: Path) -> Path:
    """The source of the commit that `tests/previous-version` names, unpacked at `place`."""
    commit = (ROOT / "tests/previous-version").read_text().strip()
    place.mkdir(parents=True)
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False, timeout=60)
    if packed.returncode:
        raise RuntimeError(
            f"the commit {commit} of tests/previous-version is not in this clone: {packed.stderr.decode()}"
        )
    subprocess.run(["tar", "-x", "-C", str(place)], input=packed.stdout, check=True, timeout=60)
    return place
