"""A Ray cluster of three nodes on this machine, to be used and to be harmed: for faults under sweeps, and for tests."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.ports import free_ports
from benchmarks.faults.process_tree import descendants, naming
from benchmarks.faults.workshop import PATIENCE_SECONDS

PROJECT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")


@dataclass
class Nodes:
    """A head, on which no trial fits, and two workers with one core each."""

    directory: Path
    address: str
    environment: dict[str, str]

    @property
    def token(self) -> dict[str, str]:
        """The variables by which a command finds the cluster's token."""
        return {name: value for name, value in self.environment.items() if name.startswith("RAY_AUTH")}

    @property
    def there(self) -> Path:
        """Where sweeps live on the cluster."""
        return self.directory / "there" / "runs"

    def kill_worker(self, name: str) -> None:
        """Take all processes of a node at once."""
        raylets = set(naming(str(self.directory / name))) & set(naming("raylet/raylet"))
        kill([*raylets, *(each for pid in raylets for each in descendants(pid))])

    def sweeps(self, *arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sweeps", *map(str, arguments)],
            cwd=PROJECT,
            env=environment or self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def submitting(self, log: Path, *arguments: object) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            command = [sys.executable, "-m", "sweeps", "submit", *map(str, arguments), "--cluster-runs", str(self.there)]
            return subprocess.Popen(command, cwd=PROJECT, env=self.environment, stdout=file, stderr=subprocess.STDOUT)


@contextmanager
def three_nodes() -> Iterator[Nodes]:
    """Three nodes that are started, and ended at the end with all that they have started."""
    # Not pytest's own directory: the path of a Unix socket has at most 107 characters.
    directory = Path(
        subprocess.run(["mktemp", "-d", "/tmp/nodesXXXX"], capture_output=True, text=True, check=True).stdout.strip()
    )
    port, dashboard, client, *agents = free_ports(6)
    (directory / "token").write_text(secrets.token_hex(32))
    (directory / "scratch").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{RAY.parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TMPDIR": str(directory / "scratch"),
    }

    def start(name: str, agent: int, *options: str) -> None:
        common = ["--object-store-memory=80000000", f"--dashboard-agent-listen-port={agent}", f"--temp-dir={directory / name}"]
        command = [str(RAY), "start", "--node-ip-address=127.0.0.1", *options, *common]
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        start("h", agents[0], "--head", *ports, "--dashboard-host=127.0.0.1", "--num-cpus=0")
        for number in (1, 2):
            start(f"w{number}", agents[number], f"--address=127.0.0.1:{port}", "--num-cpus=1")
        yield Nodes(directory, f"http://127.0.0.1:{dashboard}", environment)
    finally:
        while left := [pid for pid in naming(str(directory)) if pid != os.getpid()]:
            kill([each for pid in left for each in (pid, *descendants(pid))])
            time.sleep(0.1)
        subprocess.run(["rm", "-rf", str(directory)], check=True)


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
