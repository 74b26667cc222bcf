"""Which Ray a sweep runs on, and what it does with one that it finds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from sweeps import ray_cluster

RAY = Path(sys.executable).with_name("ray")
PROJECT = Path(__file__).resolve().parents[2]
OWN = "RAY_ADDRESS=local starts one for this sweep alone"


@pytest.fixture
def address_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ray notes which cluster was started here last; none was."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_where_ray_looks(address_file: Path) -> None:
    from ray._common.utils import get_ray_address_file

    assert str(address_file) == get_ray_address_file(None)


def test_no_ray_was_started(address_file: Path, console: Console) -> None:
    assert ray_cluster.running(console) is None
    assert console.file.getvalue() == ""


def test_one_that_answers_is_joined_and_how_to_avoid_that_is_told(address_file: Path, console: Console) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        address_file.write_text(address)
        assert ray_cluster.running(console) == address
    assert console.file.getvalue() == f"joining the Ray that runs at {address}, which goes on afterwards; {OWN}\n"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "", "127.0.0.1:99999999", "127.0.0.1:"])
def test_one_that_was_killed_is_told_and_left_aside(address: str, address_file: Path, console: Console) -> None:
    address_file.write_text(address)
    assert ray_cluster.running(console) is None
    said = console.file.getvalue()
    assert said.startswith(
        f"{address_file} names a Ray at {address!r}, where none answers: this sweep starts a Ray of its own."
    )
    assert said.count("\n") == 1


def test_that_of_another_user_is_not_joined(address_file: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    address_file.write_text("127.0.0.1:6379")
    monkeypatch.setattr(os, "getuid", lambda: address_file.stat().st_uid + 1)
    assert ray_cluster.running(console) is None
    assert "is another user's" in console.file.getvalue()


SCRIPT = """
import io, json, os, sys, time
from pathlib import Path
from rich.console import Console
from sweeps import ray_cluster
from sweeps.errors import SweepError
from sweeps.space import load_space

console = Console(file=sys.stdout, width=300, highlight=False)
space = load_space(sys.argv[1])
try:
    with ray_cluster.connected(space, console) as nodes:
        import ray
        from sweeps import transfer
        print("CPUs", [node["CPU"] for node in nodes], ray_cluster.joined(), transfer.is_needed(space))
        print(ray.get_runtime_context().gcs_address)
        if "probe" in sys.argv:
            from ray._private import state, worker
            from ray.tune.execution.class_cache import _ActorClassCache

            class Probe:
                def has(self):
                    return "sweeps.trainable" in sys.modules, os.environ["PL_DISABLE_FORK"]

            node = worker._global_node
            print(*sorted(node.all_processes))
            while len(state.workers()) < int(nodes[0]["CPU"]):  # asked for earlier, Ray would start others
                time.sleep(0.05)
            with ray_cluster.for_tune():
                classes = _ActorClassCache()
                actors = [classes.get(Probe).options(num_cpus=1).remote() for _ in range(int(nodes[0]["CPU"]))]
            print(*ray.get([actor.has.remote() for actor in actors]))
            print(len(list(Path(node.get_logs_dir_path()).glob("python-core-worker-*"))))
except SweepError as error:
    print("refused:", error)
"""


@pytest.fixture
def connect(make_space: Callable, tmp_path: Path) -> Callable[..., list[str]]:
    """A function: arguments and environment → what a process that connects as a sweep does prints, by lines."""

    def connect(*arguments: str, **environment: str) -> list[str]:
        make_space("")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "test.yaml"), *arguments],
            cwd=PROJECT,
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return connect


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[str, str]]]:
    """A function: environment → RAY_TMPDIR and address of a Ray that runs, started by `ray start --head` with three CPUs."""
    begun: list[subprocess.Popen[bytes]] = []
    # Not pytest's own directory: the path of a Unix socket has at most 107 characters.
    directory = subprocess.run(["mktemp", "-d", "/tmp/headXXXX"], capture_output=True, text=True, check=True).stdout.strip()

    def start(**environment: str) -> tuple[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        port = free_port()
        log = Path(directory, "log")
        command = [RAY, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=3"]
        variables = {"RAY_TMPDIR": directory, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **environment}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--include-dashboard=false", "--disable-usage-stats"],
                env={**inherited, **variables},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        begun.append(process)
        deadline = time.monotonic() + 600
        while not Path(directory, "ray", "ray_current_cluster").exists():  # what it writes last
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return directory, f"127.0.0.1:{port}"

    yield start
    for process in begun:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    subprocess.run(["rm", "-rf", directory], check=True)


@pytest.mark.slow
def test_a_ray_that_runs_here_is_joined_and_goes_on(head: Callable, connect: Callable) -> None:
    directory, address = head()
    said = [
        f"joining the Ray that runs at {address}, which goes on afterwards; RAY_ADDRESS=local starts one for this sweep alone"
    ]
    for _ in range(2):  # the first leaves it running
        assert connect(RAY_TMPDIR=directory) == [*said, "CPUs [3.0] True True", address]
    cpus, other = connect(RAY_TMPDIR=directory, RAY_ADDRESS="local")
    assert cpus == f"CPUs [{float(len(os.sched_getaffinity(0)))}] False False"
    assert other != address


@pytest.mark.slow
def test_a_ray_that_cannot_be_joined_is_refused_in_words(head: Callable, connect: Callable, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a" * 64)
    directory, address = head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    told, refused = connect(RAY_TMPDIR=directory, HOME=str(tmp_path))
    assert told.startswith(f"joining the Ray that runs at {address}")
    assert refused.startswith(f"refused: the Ray at {address}, which runs on this machine, cannot be joined: ")
    assert "oken" in refused
    assert refused.endswith("RAY_ADDRESS=local starts one for this sweep alone.")
    with_token = connect(RAY_TMPDIR=directory, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert with_token[1:] == ["CPUs [3.0] True True", address]


@pytest.mark.slow
def test_a_ray_of_its_own_is_no_more_than_it_needs_and_its_workers_wait_for_the_slots(connect: Callable) -> None:
    cpus = len(os.sched_getaffinity(0))
    _, _, processes, workers, count = connect("probe", RAY_ADDRESS="local")
    assert processes == "gcs_server raylet"
    assert workers == " ".join(["(True, '1')"] * cpus)
    assert int(count) == cpus, "an actor has got another worker than those that were started before it was asked for"


HELD = """
import subprocess, sys, time
from rich.console import Console
from sweeps import ray_cluster
from sweeps.space import load_space

with ray_cluster.connected(load_space(sys.argv[1]), Console(file=sys.stderr)):
    from ray._private import state, worker

    while len(state.workers()) < 1:
        time.sleep(0.05)
    servers = [info.process.pid for infos in worker._global_node.all_processes.values() for info in infos]
    started = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", ",".join(map(str, servers))], capture_output=True, text=True, check=True
    ).stdout
    print(*servers, *(f"{pid} {args}" for pid, args in (line.split(maxsplit=1) for line in started.splitlines())), sep="\\n")
    print("END", flush=True)
    sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_ray_of_its_own_ends_with_a_driver_that_is_killed(make_space: Callable, tmp_path: Path) -> None:
    make_space("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HELD), str(tmp_path / "test.yaml")],
        cwd=PROJECT,
        env={**environment, "RAY_ADDRESS": "local"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = list(iter(driver.stdout.readline, "END\n"))
    idle = [int(line.split()[0]) for line in lines if line.split()[1:] == ["cat"]]
    assert len(idle) == 2, lines  # in the places of Ray's agents
    assert not any("Agent" in line for line in lines)
    left = [int(line.split()[0]) for line in lines]
    for pid in idle:
        os.kill(pid, signal.SIGINT)  # as a terminal does, to all that the driver has started
    time.sleep(1)
    assert all(map(alive, left))
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    deadline = time.monotonic() + 120
    while left := [pid for pid in left if alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
