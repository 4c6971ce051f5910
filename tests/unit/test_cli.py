"""The command line on fakes: what is printed, which exit status, and that bad input changes nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import main as program
from gateway.cli.output import ProgressLine, report_error
from gateway.cli.session import Session
from gateway.cli.values import parse_named_address, parse_size, parse_tagged_address, show_size
from gateway.errors import BadInput, StoreUnavailable
from gateway.lio.logins import Session as Login
from gateway.model import ImageName, Iqn, Label
from gateway.store.values import Put
from gateway.vault import Vault
from tests.fakes.agent import KEY
from tests.fakes.ceph import FakeImage
from tests.fakes.operation import Operation, operation
from tests.unit.command_line import command_parsers

IQN = "iqn.1993-08.org.debian:01:abc"
README = Path(__file__).parents[2] / "gateway/cli/README.md"


@dataclass
class Terminal:
    """Runs commands on a cluster in memory and keeps what they print."""

    made: Operation
    capture: pytest.CaptureFixture[str]
    out: str = ""
    error: str = ""
    key: Vault = KEY
    node: str = "gw9"
    logins: Callable[[Iqn], Collection[Login]] = lambda _iqn: ()

    def run(self, line: str) -> int:
        """One command; its exit status."""
        try:
            status = program.run(line.split(), self._open)
        except SystemExit as end:
            status = int(str(end.code or 0))
        self.out, self.error = self.capture.readouterr()
        return status

    def json(self, line: str) -> Any:
        """One command that succeeds; its document."""
        assert self.run(f"{line} --json") == 0, self.error
        return json.loads(self.out)

    @contextmanager
    def _open(self, chosen: Namespace, progress: ProgressLine) -> Iterator[Session]:
        timeout = chosen.timeout if getattr(chosen, "wait", False) else 0.0
        made = self.made
        node = Label(self.node)
        yield Session(made.store, made.ceph, made.patience(timeout), node, print, lambda: self.key, self.logins)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    """A cluster with two gateways and an operator."""
    return Terminal(operation(), capsys)


def test_an_operators_day(terminal: Terminal) -> None:
    """Create, allow, move, deny and delete, each seen done, with the documented words in JSON."""
    image = terminal.json("image create rbd/disk1 --size 1G --paths 2")
    words = {"name", "iqn", "serial", "size", "holder", "state", "reason", "since", "pin", "keep_away", "paths"}
    assert set(image) == words
    assert (image["name"], image["size"], image["state"], image["reason"]) == ("rbd/disk1", 1 << 30, "serving", "")
    assert [set(path) for path in image["paths"]] == [
        {"tag", "address", "port", "network", "state", "reason", "since", "kind"}
    ] * 2
    assert [(path["tag"], path["port"], path["state"]) for path in image["paths"]] == [(1, 3260, "up"), (2, 3260, "up")]
    allowed = {"image": "rbd/disk1", "initiators": [IQN], "groups": []}
    assert terminal.json(f"initiator allow rbd/disk1 {IQN}") == allowed
    assert terminal.json("initiator list rbd/disk1") == [{"iqn": IQN, "group": None, "chap": "none"}]
    moved = terminal.json("image move rbd/disk1")
    assert moved["holder"] != image["holder"]
    node = terminal.json(f"node show {moved['holder']}")
    assert {"name", "state", "live", "networks", "images", "version"} <= set(node)
    assert (node["images"], node["live"], node["state"]) == (["rbd/disk1"], True, "active")
    assert terminal.json("image list") == [terminal.json("image show rbd/disk1")]
    assert terminal.json("status")["nodes"] == terminal.json("node list")
    assert terminal.json(f"initiator deny rbd/disk1 {IQN}")["initiators"] == []
    assert terminal.json("image delete rbd/disk1") == {"name": "rbd/disk1", "kept": False}
    assert terminal.json("image list") == []
    assert terminal.json("cluster show")["anchor_pool"] == "rbd"


def test_what_people_read(terminal: Terminal) -> None:
    """Without --json there are tables, one line an image or node, with the reason at the end."""
    assert terminal.run("image create rbd/disk1 --size 1536M") == 0
    assert re.search(r"^state +serving$", terminal.out, re.MULTILINE)
    assert re.search(r"^2 +\[fd77:2::100\]:3260 +storage-2 +up$", terminal.out, re.MULTILINE)
    assert terminal.run("status") == 0
    assert re.search(r"^gw1 +active +live +storage-1,storage-2 +\d +0\.1\.0 +holds", terminal.out, re.MULTILINE)
    assert re.search(r"^rbd/disk1 +1\.5G +gw\d +serving +2/2$", terminal.out, re.MULTILINE)
    for line in ("image list", "node list", "node show gw1", "initiator list rbd/disk1", "cluster show"):
        assert terminal.run(line) == 0, line


def test_every_command_takes_json() -> None:
    """`--json` and `--settings` are options of every command there is."""
    for words, parser in command_parsers().items():
        options = {option for action in parser._actions for option in action.option_strings}
        assert {"--json", "--settings"} <= options, words


def test_only_what_is_called_is_loaded() -> None:
    """`rbdgate --help` loads no command's module, and a command only its group's; none loads etcd's or Ceph's."""
    script = (
        "import sys; from gateway.cli.arguments import parse_arguments\n"
        "try: parse_arguments(sys.argv[1:])\nexcept SystemExit: pass\n"
        "slow = {'grpc', 'etcd3', 'rados', 'rbd', 'rtslib_fb', 'structlog', 'argcomplete'}\n"
        "print(*sorted(m for m in sys.modules if m in slow or m.startswith(('gateway.cli.', 'gateway.actions'))))"
    )

    def loaded(*words: str) -> set[str]:
        run = subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True, text=True)
        return set(run.stdout.splitlines()[-1].split())

    frame = {f"gateway.cli.{name}" for name in ("arguments", "completing", "output", "parsers", "values")}
    assert loaded("--help") == frame
    show = loaded("node", "show", "gw1")
    assert {name for name in show if "actions" not in name} == {*frame, "gateway.cli.node", "gateway.cli.session"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("frobnicate", "invalid choice"),
        ("image create rbd/x --size 1000", "not a positive multiple of 512"),
        ("image create rbd/x --size 0", "not a positive multiple of 512"),
        ("image create rbd/x --size big", "'big' is no size"),
        ("image create rbd/x", "the following arguments are required: --size"),
        ("image create disk --size 1G", "'disk' names no image"),
        ("image create rbd/x --size 1G --paths 0", "no number from 1 on"),
        ("image create rbd/x --size 1G --address 10.0.1.1", "write NETWORK=IP"),
        ("image create rbd/x --size 1G --address storage-1=10.0.1.300", "is not an IP address"),
        (
            "image create rbd/x --size 1G --address storage-1=10.0.1.3 --address storage-1=10.0.1.3",
            "an address is named twice",
        ),
        (
            "image create rbd/x --size 1G --paths 1 --address storage-1=10.0.1.3 --address storage-1=10.0.1.4",
            "2 addresses are named",
        ),
        ("image adopt rbd/x --path 1=10.0.1.1 --paths 2", "leave --address and --paths out"),
        ("image adopt rbd/x --path 1=10.0.1.1 --path 1=10.0.1.2", "a tag is named twice"),
        ("image adopt rbd/x --path 10.0.1.1", "write TAG=ADDRESS"),
        ("image adopt rbd/x --iqn iqn.x", "is no iSCSI name"),
        ("initiator allow rbd/x IQN.1993-08.org.debian:01:abc", "is not in normal form"),
        ("initiator allow rbd/x debian", "is no iSCSI name"),
        ("image move rbd/x --to a/b", "is no name for a node"),
        ("image delete rbd/x --timeout soon", "is no number of seconds"),
        ("image delete rbd/x --wait --no-wait", "not allowed with"),
        ("cluster init --anchor-pool rbd", "required: --network"),
        ("cluster init --anchor-pool rbd --network a=10.0.1.0/24", "is no network: write NAME=CIDR"),
    ],
)
def test_wrong_usage(terminal: Terminal, line: str, reason: str) -> None:
    """What is malformed in itself ends with status 2, one line that says why, and nothing changed."""
    before = terminal.made.etcd.range("/").revision
    assert terminal.run(line) == 2
    assert reason in terminal.error.splitlines()[-1]
    assert terminal.run(f"{line} --json") == 2
    assert reason in json.loads(terminal.out)["error"]["message"]
    assert terminal.made.etcd.range("/").revision == before
    assert terminal.made.ceph.acts == []


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("image create nopool/x --size 1G", "NotFound", "there is no pool 'nopool'"),
        ("image create rbd/x --size 1G --address storage-1=10.9.9.9", "BadInput", "outside every network"),
        ("image create rbd/x --size 1G --address nowhere=10.9.9.9", "NotFound", "there is no network nowhere"),
        ("image create rbd/x --size 1G --address storage-1=10.0.1.9", "AlreadyExists", "taken by image rbd/disk1"),
        ("image create rbd/disk1 --size 1G", "AlreadyExists", "served by this cluster already"),
        ("image adopt rbd/journal", "Refused", "it has the journaling feature"),
        ("image adopt rbd/open", "Refused", "it is open at 10.0.0.9:0/7"),
        ("image adopt rbd/odd --iqn iqn.2026-11.io.rbdgate:one", "AlreadyExists", "IQN .* is taken by image rbd/disk1"),
        ("image adopt rbd/odd --serial one", "AlreadyExists", "serial one .* is taken by image rbd/disk1"),
        ("image adopt rbd/odd --vendor waytoolong", "BadInput", "vendor 'waytoolong'"),
        ("image adopt rbd/none", "NotFound", "does not exist"),
        ("image show rbd/none", "NotFound", "no image rbd/none"),
        ("image move rbd/disk1 --to gw9", "NotFound", "no node gw9"),
        ("image delete rbd/none", "NotFound", "no image rbd/none"),
        (f"initiator deny rbd/disk1 {IQN}", "NotFound", "is not allowed"),
        ("node show gw9", "NotFound", "no node gw9"),
        (
            "cluster init --network a=10.0.1.0/24,10.0.1.1-10.0.1.9 --anchor-pool rbd",
            "AlreadyExists",
            "there is a cluster",
        ),
    ],
)
def test_refusals(terminal: Terminal, line: str, kind: str, reason: str) -> None:
    """What the cluster refuses ends with status 1 and names value and reason, and nothing is changed."""
    images = terminal.made.ceph.images
    images[ImageName.parse("rbd/one")] = FakeImage("i1", 1 << 30)
    adopted = "image adopt rbd/one --iqn iqn.2026-11.io.rbdgate:one --serial one --path 1=10.0.1.9"
    assert terminal.run(adopted.replace("rbd/one", "rbd/disk1")) == 1  # there is no such RBD image
    images[ImageName.parse("rbd/disk1")] = images.pop(ImageName.parse("rbd/one"))
    assert terminal.run(adopted.replace("rbd/one", "rbd/disk1")) == 0
    for name, obstacle in (
        ("journal", ("it has the journaling feature",)),
        ("open", ("it is open at 10.0.0.9:0/7",)),
        ("odd", ()),
    ):
        images[ImageName("rbd", name)] = FakeImage(f"id{name}", 1 << 30, obstacle)
    before = terminal.made.etcd.range("/").revision, dict(images), dict(terminal.made.ceph.copies)
    assert terminal.run(f"{line} --json") == 1
    error = json.loads(terminal.out)["error"]
    assert error["kind"] == kind
    assert re.search(reason, error["message"])
    assert terminal.error == f"rbdgate: {error['message']}\n"
    assert (terminal.made.etcd.range("/").revision, dict(images), dict(terminal.made.ceph.copies)) == before


def test_not_reached(terminal: Terminal) -> None:
    """What is accepted and not reached in time ends with status 3 and the reason; without waiting with 0."""
    for agent in terminal.made.agents:
        agent.broken = "the kernel said no"
    assert terminal.run("image create rbd/disk1 --size 1G --timeout 2 --json") == 3
    assert "the kernel said no" in json.loads(terminal.out)["error"]["message"]
    assert terminal.json("image show rbd/disk1")["state"] == "failed"
    assert terminal.json("image create rbd/disk2 --size 1G --no-wait")["state"] == "unclaimed"
    assert any("is unclaimed" in reason for reason in terminal.made.said)


def test_a_delete_without_waiting(terminal: Terminal) -> None:
    """Nobody else finishes a delete: without waiting it says that it has to be run again."""
    assert terminal.run("image create rbd/disk1 --size 1G") == 0
    assert terminal.run("image delete rbd/disk1 --no-wait") == 3
    assert "has not let image rbd/disk1 go yet" in terminal.error
    terminal.made.settle()
    assert terminal.run("image delete rbd/disk1 --no-wait") == 0


def test_a_damaged_spec_is_shown_and_the_rest_goes_on(terminal: Terminal) -> None:
    """A spec of a newer version and garbage show as broken with the reason; other images are served."""
    assert terminal.run("image create rbd/good --size 1G") == 0
    keys = terminal.made.store.keys
    terminal.made.etcd.transact([], [Put(keys.image(ImageName.parse("rbd/new")), b'{"schema":9}')])
    terminal.made.etcd.transact([], [Put(keys.image(ImageName.parse("rbd/junk")), b"\xff\x00")])
    states = {image["name"]: (image["state"], image["reason"]) for image in terminal.json("image list")}
    assert states["rbd/good"] == ("serving", "")
    assert states["rbd/new"][0] == "broken"
    assert "schema 9" in states["rbd/new"][1]
    assert states["rbd/junk"][0] == "broken"
    assert terminal.run("image list") == 0


def test_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    """Before `cluster init` every command says to run it; after it the cluster is there."""
    terminal = Terminal(Operation(), capsys)
    assert terminal.run("status") == 1
    assert "run `rbdgate cluster init`" in terminal.error
    init = "cluster init --network a=10.0.1.0/24,10.0.1.1-10.0.1.9 --anchor-pool rbd --iqn-prefix iqn.2026-11.org.x"
    assert terminal.json(init)["networks"] == [
        {"name": "a", "cidr": "10.0.1.0/24", "first": "10.0.1.1", "last": "10.0.1.9"}
    ]
    assert terminal.json("cluster show")["iqn_prefix"] == "iqn.2026-11.org.x"
    assert terminal.json("status") == {"troubles": [], "images": [], "nodes": []}


def test_bad_networks(capsys: pytest.CaptureFixture[str]) -> None:
    """Networks that overlap, or a prefix that is none, make no cluster."""
    terminal = Terminal(Operation(), capsys)
    network = "--network a=10.0.1.0/24,10.0.1.1-10.0.1.9"
    assert terminal.run(f"cluster init {network} --network b=10.0.0.0/16,10.0.2.1-10.0.2.9 --anchor-pool rbd") == 1
    assert "overlap" in terminal.error
    assert terminal.run(f"cluster init {network} --anchor-pool rbd --iqn-prefix nonsense") == 1
    assert terminal.run(f"cluster init {network} --anchor-pool nopool") == 1
    assert "no pool 'nopool'" in terminal.error
    assert terminal.made.etcd.range("/").items == ()


def test_the_settings_file_is_read_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A settings file with an unknown key stops every command, with the key's name."""
    path = tmp_path / "rbdgate.toml"
    path.write_text('[etcd]\nendpoint = ["127.0.0.1:1"]\n')
    assert program.main(["status", "--settings", str(path)]) == 1
    assert "unknown key etcd.endpoint; did you mean etcd.endpoints?" in capsys.readouterr().err


def test_no_command(terminal: Terminal) -> None:
    """Without a command it is said how to find one."""
    assert terminal.run("") == 2
    assert "see `rbdgate --help`" in terminal.error


def test_help_and_version(terminal: Terminal) -> None:
    """`--help` says what the exit status means, and delete's says that no data is destroyed."""
    assert terminal.run("--help") == 0
    assert "3 accepted but not reached" in terminal.out
    assert terminal.run("image delete --help") == 0
    assert "No data is destroyed" in terminal.out
    assert terminal.run("--version") == 0
    assert re.fullmatch(r"\d+\.\d+\S*\n", terminal.out)


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """However long a message is, it is one line."""
    report_error(BadInput("one\ntwo   three"), json_too=False)
    assert capsys.readouterr().err == "rbdgate: one two three\n"


def test_without_etcd_the_next_step_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever hears that etcd does not answer hears what becomes of the images, and who knows more."""
    report_error(StoreUnavailable("no etcd member answered"), json_too=True)
    told = capsys.readouterr()
    for text in (told.err, json.loads(told.out)["error"]["message"]):
        assert "served goes on while its tenure lasts; `rbdgate doctor --only etcd`" in text


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("1K", 1024), ("1G", 1 << 30), ("1.5T", 3 << 39), ("512m", 512 << 20), ("2GiB", 2 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    """Sizes are read as people write them."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1X", "-1G", "1e9", "G", "1.0000001K", "0", "513", "0.7K", "٣G"])
def test_no_sizes(text: str) -> None:
    """What is no size, or no multiple of 512, is refused."""
    with pytest.raises(BadInput):
        parse_size(text)


@given(st.integers(1, 2**50))
def test_a_shown_size_is_the_size(blocks: int) -> None:
    """What is shown reads back as the same number of bytes."""
    assert parse_size(show_size(512 * blocks)) == 512 * blocks


@given(st.text(max_size=30))
def test_no_text_breaks_the_readers(text: str) -> None:
    """Whatever stands on the command line is read or refused."""
    for parse in (parse_size, parse_named_address, parse_tagged_address):
        try:
            parse(text)
        except BadInput:
            continue


def test_readme_has_every_command_and_setting() -> None:
    """The chapter names every command, every key of the settings file, and the exit statuses."""
    text = README.read_text()
    for command in command_parsers():
        assert f"rbdgate {command}" in text, command
    for key in ("node", "endpoints", "prefix", "conf", "user", "keyring", "runtime_directory", "[timers]"):
        assert key in text, key
