"""A real Prometheus of Debian's package: one server with its data in a directory, asked with Debian's `promtool`.

Like an etcd member it is a process that outlives its starter and is found by its pidfile. It is asked from inside its
network namespace, where nothing else of the machine reaches it.
"""

from __future__ import annotations

import json
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.processes import Process

START_BOUND = 30.0  # seconds until a server that was started must answer; it takes 1 s on 2 idle cores
STOP_GRACE = 5.0  # seconds for writing its data down before it is killed
QUERY_BOUND = 20.0  # seconds for one query; 0.1 s on 2 idle cores


@dataclass(frozen=True)
class Sample:
    """One series of an answer, at the moment of the question."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Job:
    """A scrape job: its name and its targets as HOST:PORT."""

    name: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Scraping:
    """What a server is to scrape, how often (seconds, also between two evaluations of the rules), and its rules."""

    jobs: tuple[Job, ...]
    rules: tuple[Path, ...] = ()
    interval: float = 1.0

    def as_config(self) -> str:
        """The configuration file's text: JSON, which is YAML."""
        every = f"{round(self.interval * 1000)}ms"
        return json.dumps(
            {
                "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
                "rule_files": [str(file) for file in self.rules],
                "scrape_configs": [
                    {"job_name": job.name, "static_configs": [{"targets": list(job.targets)}]} for job in self.jobs
                ],
            },
            indent=2,
        )


class Prometheus:
    """One server on `address` and `port`, in the network namespace `netns` if one is named."""

    def __init__(self, directory: Path, address: str, *, port: int = 9090, netns: str | None = None) -> None:
        self.directory = directory
        self.process = Process(directory / "prometheus.pid")
        self._listening = f"{address}:{port}"
        self._inside = ("ip", "netns", "exec", netns) if netns else ()

    @property
    def log(self) -> Path:
        """Where the server's output is appended."""
        return self.directory / "prometheus.log"

    def start(self, scraping: Scraping) -> None:
        """Start the server on the data it has and return when it answers; RuntimeError after `START_BOUND`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "prometheus.yml"
        config.write_text(scraping.as_config())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # that it outlives its Popen is what it is for
            self.process.start(self._command(config), log=self.log)
        self._wait_answering()

    def stop(self) -> None:
        """End the server; its data stays until the directory is removed."""
        self.process.end(grace=STOP_GRACE)

    def query(self, expression: str) -> list[Sample]:
        """What an instant vector is now; RuntimeError with Prometheus' words if it refuses or does not answer."""
        done = self._ask(expression)
        if done.returncode:
            raise RuntimeError(f"{expression}: {done.stderr or done.stdout}")
        return [Sample(each["metric"], float(each["value"][1])) for each in json.loads(done.stdout)]

    def firing(self) -> list[Sample]:
        """The alerts that fire now, each with its labels (`alertname`, `severity`, ...)."""
        return self.query('ALERTS{alertstate="firing"}')

    def _command(self, config: Path) -> Sequence[str]:
        return (
            *self._inside,
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self._listening}",
            "--log.level=warn",
        )

    def _wait_answering(self) -> None:
        deadline = time.monotonic() + START_BOUND
        while (done := self._ask("vector(1)")).returncode:
            if not self.process.alive():
                raise RuntimeError(f"Prometheus ended: {self.log.read_text()[-2000:]}")
            if time.monotonic() >= deadline:
                raise RuntimeError(f"Prometheus does not answer after {START_BOUND} s: {done.stderr or done.stdout}")
            time.sleep(0.1)

    def _ask(self, expression: str) -> subprocess.CompletedProcess[str]:
        command = [*self._inside, "promtool", "query", "instant", "--format=json", f"http://{self._listening}"]
        return subprocess.run([*command, expression], capture_output=True, text=True, timeout=QUERY_BOUND, check=False)
