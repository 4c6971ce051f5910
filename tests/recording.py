"""Keeps what every test came to, so that a long run that was cut short goes on with what is missing.

    python -m pytest -p tests.recording --record FILE ...

FILE is JSON with one test a line: the commit, when and on what machine it was begun, and for each test its outcome, how
many seconds it took and the stalls it measured. On the same code a second run leaves out every file of tests that is
finished: all its tests are on record, and none failed. On other code it begins anew. What only looks back on the rest
of its run (the marker `looks_back`) is run again whenever anything beside it is.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOOD = ("passed", "skipped")
CHANGED = " with changes"
RESULTS = "tests/results"
"""Results are no code: a commit that only adds them is the same code as the one before it."""


@dataclass(frozen=True)
class Result:
    """One test: the worst outcome of set-up, call and tear-down, the seconds of all three, and stalls by kind."""

    outcome: str
    seconds: float
    stalls: dict[str, float] = field(default_factory=dict)

    def with_phase(self, outcome: str, seconds: float) -> Result:
        """The same test after one more phase; what failed stays failed, and what was skipped did not pass."""
        rank = ("passed", "skipped", "failed")
        return replace(self, outcome=max(self.outcome, outcome, key=rank.index), seconds=self.seconds + seconds)


@dataclass(frozen=True)
class Record:
    """A run, finished or not: the tests by their ids."""

    commit: str
    date: str
    machine: str
    tests: dict[str, Result] = field(default_factory=dict)

    def to_json(self) -> str:
        """Text for a file, one test a line, in the order of their ids."""
        head = {"commit": self.commit, "date": self.date, "machine": self.machine}
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        tests = [f"    {json.dumps(key)}: {json.dumps(_form(result))}" for key, result in sorted(self.tests.items())]
        lines.append('  "tests": {\n' + ",\n".join(tests) + "\n  }")
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read what `to_json` wrote; ValueError, KeyError or TypeError for anything else."""
        value = json.loads(text)
        tests = {key: Result(**result) for key, result in value["tests"].items()}
        return cls(value["commit"], value["date"], value["machine"], tests)


def _form(result: Result) -> dict[str, object]:
    form = asdict(result) | {"seconds": round(result.seconds, 2)}
    return form if result.stalls else {key: form[key] for key in ("outcome", "seconds")}


def _pair(value: object) -> tuple[object, object]:
    """A stall as a test put it on record: its kind and its seconds."""
    if not (isinstance(value, tuple) and len(value) == 2):
        raise TypeError(f"{value!r} is no kind with its seconds")
    return value


def finished(record: Record, ids: Iterable[str]) -> set[str]:
    """The files of tests of which every test is on record and none failed."""
    files: dict[str, bool] = {}
    for test in ids:
        file = test.partition("::")[0]
        good = test in record.tests and record.tests[test].outcome in GOOD
        files[file] = files.get(file, True) and good
    return {file for file, good in files.items() if good}


def code_now() -> str:
    """The commit that is checked out; marked if anything but results was changed since."""
    commit = _git("rev-parse", "HEAD").strip()
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS}")
    return commit + (CHANGED if dirty.strip() else "")


def same_code(recorded: str, now: str) -> bool:
    """Whether two commits differ in nothing but results; changes that were never committed are like no others."""
    if recorded.endswith(CHANGED) or now.endswith(CHANGED):
        return False
    words = ["git", "-C", str(ROOT), "diff", "--quiet", recorded, now, "--", ".", f":!{RESULTS}"]
    return recorded == now or subprocess.run(words, check=False, capture_output=True).returncode == 0


def machine_in_words() -> str:
    """Cores, memory, distribution and kernel."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {release}, Linux {platform.release()}"


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


class Recorder:
    """The plugin of one run."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._record = self._begin()
        self._left_out: list[pytest.Item] = []

    def _begin(self) -> Record:
        now = code_now()
        try:
            record = Record.from_json(self._file.read_text())
        except (OSError, ValueError, KeyError, TypeError):
            record = None
        if record is not None and same_code(record.commit, now):
            return record
        return Record(now, datetime.now(UTC).isoformat(timespec="seconds"), machine_in_words())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what is finished; what is to be run is off the record until it has run."""
        done = finished(self._record, (item.nodeid for item in items))
        left = [item for item in items if item.nodeid.partition("::")[0] not in done]
        folders = {item.path.parent for item in left}
        left_ids = {item.nodeid for item in left}
        for item in items:
            if item.get_closest_marker("looks_back") and item.path.parent in folders:
                left_ids.add(item.nodeid)
        self._left_out = [item for item in items if item.nodeid not in left_ids]
        items[:] = [item for item in items if item.nodeid in left_ids]
        config.hook.pytest_deselected(items=self._left_out)
        tests = {key: result for key, result in self._record.tests.items() if key not in left_ids}
        self._record = replace(self._record, tests=tests)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase of a test, and keep all when its last one is over."""
        known = self._record.tests.get(report.nodeid, Result("passed", 0.0))
        result = known.with_phase(report.outcome, report.duration)
        if report.when == "teardown":
            stalls = [value for key, value in report.user_properties if key == "stall"]
            result = replace(result, stalls={str(kind): float(str(seconds)) for kind, seconds in map(_pair, stalls)})
        self._record.tests[report.nodeid] = result
        if report.when == "teardown":
            self._keep()

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """With everything on record there was nothing to run, and that is well."""
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._left_out:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was not run again, and where all results are."""
        if self._left_out:
            terminalreporter.write_line(
                f"{len(self._left_out)} tests passed earlier on the same code, and were left out"
            )
        terminalreporter.write_line(f"every test's result on {self._record.commit} is in {self._file}")

    def _keep(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".new")
        draft.write_text(self._record.to_json())
        draft.rename(self._file)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that names the file."""
    parser.addoption("--record", type=Path, metavar="FILE", help="keep each test's result, and leave out what is kept")


def pytest_configure(config: pytest.Config) -> None:
    """Record only where a file is named."""
    file = config.getoption("--record")
    if file is not None:
        config.pluginmanager.register(Recorder(file), "recorder")
