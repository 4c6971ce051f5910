"""What Ansible's own judges say of the collection, and its firewall table on a kernel that has nftables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment.controller import lay_out, surroundings

# What ansible-test runs in place of a script it would fetch: the pip that Python has is new enough. It hides this
# machine's settings of pip (a mirror's certificate, for one), so they are written where pip looks in an environment.
_BOOTSTRAP = """\
import ensurepip, pathlib, sys
ensurepip.bootstrap(default_pip=True)
pathlib.Path(sys.prefix, "pip.conf").write_text({settings!r})
"""


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the collection laid out as ansible_collections/NAMESPACE/NAME."""
    return lay_out(tmp_path_factory.mktemp("collections"))


def judged(collection: Path, *command: str) -> str:
    """Run a judge in the copy; what it said, and how it ended."""
    home = collection.parents[2]
    done = subprocess.run(
        command,
        cwd=collection,
        env=surroundings(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_ansible_lint_is_content(collection: Path) -> None:
    """`ansible-lint` finds nothing at its strictest profile, production."""
    said = judged(collection, "ansible-lint", "--offline", "--profile", "production", "--strict", "--nocolor")
    assert "Passed: 0 failure(s), 0 warning(s)" in said


def test_yamllint_is_content(collection: Path) -> None:
    """`yamllint` finds nothing, warnings included."""
    assert judged(collection, "yamllint", "--strict", ".") == ""


def test_ansible_test_sanity_is_content(collection: Path) -> None:
    """`ansible-test sanity` runs all its tests and finds nothing."""
    cache = collection.parents[2] / ".ansible/test/cache"
    cache.mkdir(parents=True)
    settings = {key[4:].lower().replace("_", "-"): value for key, value in os.environ.items() if key.startswith("PIP_")}
    text = "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
    (cache / "get_pip_24_2.py").write_text(_BOOTSTRAP.format(settings=text))
    said = judged(
        collection, "ansible-test", "sanity", "--python", f"{sys.version_info.major}.{sys.version_info.minor}"
    )
    assert 'Running sanity test "validate-modules"' in said


_SCRIPT = """
set -e
ip link set lo up
ip netns add {far}
ip link add near type veth peer name far netns {far}
ip link set near up
ip address add 10.99.1.1/24 dev near
ip -n {far} link set far up
ip -n {far} address add 10.99.1.2/24 dev far
ip -n {far} address add 10.99.2.2/32 dev far
ip route add 10.99.2.2/32 dev near
nft -f {table}
/usr/bin/python3 -m http.server --bind 10.99.1.1 3260 --directory /var/empty >/dev/null 2>&1 & portal=$!
/usr/bin/python3 -m http.server --bind 10.99.1.1 22 --directory /var/empty >/dev/null 2>&1 & door=$!
trap 'kill $portal $door; ip netns delete {far}' EXIT
for port in 22 3260; do
    curl --silent --retry 20 --retry-connrefused --retry-delay 0 --max-time 20 -o /dev/null http://10.99.1.1:$port/
done
for source in 10.99.1.2 10.99.2.2; do
    for port in 22 3260; do
        ip netns exec {far} curl --silent --interface $source --max-time 2 -o /dev/null http://10.99.1.1:$port/ &&
            echo "$source $port reached" || echo "$source $port dropped"
    done
done
"""


def test_the_firewall_keeps_strangers_off_portals_and_locks_nobody_out(collection: Path, tmp_path: Path) -> None:
    """From the initiators' network a portal is reached, from elsewhere not; another port from everywhere."""
    table = tmp_path / "table.nft"
    rules = [{"port": "3260", "sources": ["10.99.1.0/24", "fd99::/64"]}]
    variables = json.dumps({"firewall_name": "rbdgate-gateway", "firewall_rules": rules, "ansible_managed": "a test"})
    template = f"src={collection}/roles/firewall/templates/table.nft.j2 dest={table}"
    judged(collection, "ansible", "localhost", "-c", "local", "-m", "template", "-a", template, "-e", variables)
    script = _SCRIPT.format(far=f"rbdgate-far-{os.getpid()}", table=table)
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "10.99.1.2 22 reached",
        "10.99.1.2 3260 reached",
        "10.99.2.2 22 reached",
        "10.99.2.2 3260 dropped",
    ]
