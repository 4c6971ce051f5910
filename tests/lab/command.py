"""The command line `tests/lab/lab`: words into calls of Lab, and answers into text.

Exit status: 0 done, 1 refused or failed, 2 wrong usage or a machine that cannot run a lab; `exec` ends with the
command's own status, or 124 when its time was over.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

from tests.lab.cluster import Lab
from tests.lab.layout import LabError, LabUsage
from tests.lab.machine import State
from tests.lab.networks import CUTS

DESCRIPTION = """A cluster of rbdgate on this machine: User-Mode Linux gateways (gw1...) and initiators (ini1...),
etcd and Ceph, in a network namespace of their own. tests/lab/README.md tells it all."""
TIMED_OUT = 124  # as timeout(1) has it
ANSWER_BOUND = 3.0  # seconds a node gets beyond a time-out to say that it has ended the command
_ACTS = ("stop", "cont", "kill", "start")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    end = words.index("--") if "--" in words else len(words)
    # What follows `--` is another program's, so argparse never sees it.
    options = whole_parser().parse_args(words[:end], argparse.Namespace(command=words[end + 1 :]))
    try:
        lab = Lab(options.name, say=_say)
        status: int | None = options.act(lab, options)
    except LabUsage as wrong:
        print(f"lab: {wrong}", file=sys.stderr)
        return 2
    except (LabError, RuntimeError, TimeoutError) as failed:  # the last two are etcd's and Ceph's own
        print(f"lab: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130
    return status or 0


def _say(sentence: str) -> None:
    print(f"lab: {sentence}", file=sys.stderr, flush=True)


def whole_parser() -> argparse.ArgumentParser:
    """Every command of the lab with its options."""
    parser = argparse.ArgumentParser(prog="lab", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="lab", help="which lab (default: lab)")

    def command(name: str, help: str, act: Callable[[Lab, argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", parents=[named])
        sub.set_defaults(act=act)
        return sub

    up = command("up", "make the lab, with an initialised rbdgate cluster", _up)
    up.add_argument("--gateways", type=int, default=3, metavar="N", help="default 3")
    up.add_argument("--initiators", type=int, default=1, metavar="N", help="default 1")
    up.add_argument("--bare", action="store_true", help="without rbdgate: no package, no units, no cluster")
    command("down", "remove the lab, whatever state it is in", lambda lab, _: lab.down())
    status = command("status", "show nodes, cuts, etcd and Ceph", _status)
    status.add_argument("--json", action="store_true", help="as one JSON object")
    _node_commands(command)
    for name, first, help in (
        ("osd", 0, "do something to an OSD"),
        ("etcd", 1, "do something to an etcd member"),
    ):
        sub = command(name, f"{help} (the first is {first})", _backend)
        sub.add_argument("number", type=int, metavar="N")
        sub.add_argument("to", choices=_ACTS, help="stop and cont freeze and thaw it, kill is a power cut")
        sub.set_defaults(backend=name)
    return parser


def _node_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands about one node."""

    def about_node(
        name: str, help: str, act: Callable[[Lab, argparse.Namespace], int | None]
    ) -> argparse.ArgumentParser:
        sub = command(name, help, act)
        sub.add_argument("node", metavar="NODE")
        return sub

    run = about_node("exec", "run a command in a node, with its input, output and status", _exec)
    run.usage = "lab exec [-h] [--name NAME] [--timeout S] NODE -- CMD..."
    run.add_argument("--timeout", type=float, metavar="S", help="give up after S seconds, with status 124")
    about_node("crash", "cut a node's power", lambda lab, o: lab.crash(o.node))
    about_node("boot", "switch a node on and wait until it answers", lambda lab, o: lab.boot(o.node))
    about_node("pause", "freeze a node", lambda lab, o: lab.pause(o.node))
    about_node("resume", "let a frozen node go on", lambda lab, o: lab.resume(o.node))
    cut = about_node("cut", "drop all packets between a node and something", lambda lab, o: lab.cut(o.node, o.what))
    cut.add_argument("what", choices=CUTS)
    about_node("heal", "undo every cut of a node and plug its links in", lambda lab, o: lab.heal(o.node))
    link = about_node("link", "pull or plug a storage cable", lambda lab, o: lab.link(o.node, o.network, o.to))
    link.add_argument("network", choices=("storage-1", "storage-2"))
    link.add_argument("to", choices=("down", "up"))
    about_node("logs", "print a node's console, and its journal if it answers", _logs)


def _up(lab: Lab, options: argparse.Namespace) -> None:
    lab.up(options.gateways, options.initiators, bare=options.bare)


def _exec(lab: Lab, options: argparse.Namespace) -> int:
    if not options.command:
        raise LabUsage("exec needs a command: tests/lab/lab exec NODE -- CMD...")
    command = lab.exec_command(options.node, *options.command, timeout=options.timeout)
    bound = None if options.timeout is None else options.timeout + ANSWER_BOUND
    try:
        return subprocess.run(command, timeout=bound, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"lab: {options.node} does not answer; the command may still run there", file=sys.stderr)
        return TIMED_OUT


def _backend(lab: Lab, options: argparse.Namespace) -> None:
    try:
        backend = lab.osd(options.number) if options.backend == "osd" else lab.etcd(options.number)
    except ValueError as wrong:
        raise LabUsage(str(wrong)) from None
    acts = {"stop": backend.stop, "cont": backend.cont, "kill": backend.kill, "start": backend.start}
    acts[options.to]()


def _status(lab: Lab, options: argparse.Namespace) -> None:
    shape, cuts = lab.shape, lab.wires.cuts() if lab.wires.exists() else {}
    nodes = [
        {"name": node.name, "state": lab.state(node.name).value, "cuts": cuts.get(node.name, [])} for node in lab.nodes
    ]
    backends = [{"name": name, "state": state.value} for name, state in lab.backends().items()]
    if options.json:
        whole = {
            "name": lab.name,
            "ready": shape.ready,
            "bare": shape.bare,
            "nodes": nodes,
            "backends": backends,
        }
        print(json.dumps(whole, indent=2))
        return
    print(f"lab {lab.name}: {'up' if shape.ready else 'made in part'}{', bare' if shape.bare else ''}")
    for node in nodes:
        cut = f" cut from {', '.join(node['cuts'])}" if node["cuts"] else ""
        print(f"  {node['name']:8} {node['state']:8}{cut}")
    for backend in backends:
        print(f"  {backend['name']:8} {backend['state']}")


def _logs(lab: Lab, options: argparse.Namespace) -> None:
    sys.stdout.write(lab.logs(options.node))
    if lab.state(options.node) is State.RUNNING:
        print(f"---- journal of {options.node}, this boot")
        print(lab.exec(options.node, "journalctl", "-b", "--no-pager", check=False, timeout=60).stdout)
