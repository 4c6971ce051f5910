"""`rbdgate`: one command, its answer, its exit status.

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 accepted but not reached in time.
Imports are few until it is known what is to be done: on a slow gateway `rbdgate --help` and `status` must not wait
for libraries they do not need.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from gateway.cli.arguments import called, parse_arguments, whole_parser
from gateway.cli.output import ProgressLine, as_json, report_error
from gateway.errors import RbdgateError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cli.session import Answer, Run, RunAlone, Session
    from gateway.lio.logins import Session as Login
    from gateway.model import Iqn
    from gateway.vault import Vault

DONE, FAILED, USAGE, NOT_REACHED, INTERRUPTED = 0, 1, 2, 3, 130

OpenSession = Callable[[Namespace, ProgressLine], AbstractContextManager["Session"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command on this node's settings and return its exit status."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could follow
        from gateway.cli.completing import complete  # noqa: PLC0415

        complete(whole_parser(called(os.environ.get("COMP_LINE", "").split()[1:])))
    return run(sys.argv[1:] if arguments is None else arguments, open_session)


def run(arguments: Sequence[str], opened: OpenSession) -> int:
    """Run one command in a session that is opened only if the arguments are right."""
    chosen = parse_arguments(arguments)
    if chosen.version:
        from importlib.metadata import version  # noqa: PLC0415 - 20 ms that only this option needs

        print(version("rbdgate"))
        return DONE
    try:
        return _answer(chosen, arguments, opened)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _answer(chosen: Namespace, arguments: Sequence[str], opened: OpenSession) -> int:
    from gateway.actions.waiting import NotReached  # noqa: PLC0415 - after the arguments were found right

    progress = ProgressLine()
    try:
        answer = _carried_out(chosen, arguments, opened, progress)
    except NotReached as error:
        progress.clear()
        report_error(error, json_too=chosen.json)
        return NOT_REACHED
    except RbdgateError as error:
        progress.clear()
        report_error(error, json_too=chosen.json)
        return FAILED
    progress.clear()
    print(as_json(answer.document) if chosen.json else answer.text)
    return answer.status


def _carried_out(chosen: Namespace, arguments: Sequence[str], opened: OpenSession, progress: ProgressLine) -> Answer:
    if hasattr(chosen, "alone"):
        alone: RunAlone = chosen.alone
        return alone(chosen)
    from gateway.cli.recording import run_recorded  # noqa: PLC0415

    run: Run = chosen.run
    with opened(chosen, progress) as session:
        return run_recorded(session, chosen, arguments, run)


@contextmanager
def open_session(chosen: Namespace, progress: ProgressLine) -> Iterator[Session]:
    """The session that the settings file describes."""
    from gateway.actions.ceph import CephCluster  # noqa: PLC0415
    from gateway.actions.waiting import Patience  # noqa: PLC0415
    from gateway.cli.session import Session  # noqa: PLC0415
    from gateway.settings import Settings  # noqa: PLC0415
    from gateway.store.client import EtcdClient  # noqa: PLC0415
    from gateway.store.cluster import ClusterStore  # noqa: PLC0415
    from gateway.store.papers import Papers  # noqa: PLC0415

    settings = Settings.load(chosen.settings)
    client = EtcdClient(
        settings.etcd.endpoints, papers=Papers(settings.etcd.security), call_timeout=settings.timers.etcd_call
    )
    ceph = CephCluster(settings.ceph, settings.timers.rados_operation)
    patience = Patience(chosen.timeout if getattr(chosen, "wait", False) else 0.0, progress.show)
    store = ClusterStore(client, settings.etcd.prefix)
    try:
        yield Session(
            store,
            ceph,
            patience,
            settings.node,
            lambda text: print(f"rbdgate: {text}", file=sys.stderr),
            lambda: _vault(settings.key_file),
            _logins,
        )
    finally:
        ceph.close()
        client.close()


def _logins(iqn: Iqn) -> Collection[Login]:
    from gateway.lio.logins import sessions  # noqa: PLC0415 - only what shows reservations needs it

    return sessions(iqn)


def _vault(key_file: Path) -> Vault:
    from gateway.vault import load  # noqa: PLC0415 - only commands that seal something need it

    return load(key_file)


if __name__ == "__main__":
    sys.exit(main())
