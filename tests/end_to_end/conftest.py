"""Commands as a user types them, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.faults.nodes import Nodes, three_nodes
from lhtx.files import write_atomically

PROJECT = Path(__file__).resolve().parent.parent.parent

BOMB = """
import time
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Bomb(Callback):
    def __init__(self, armed):
        self.armed = armed

    def on_train_epoch_start(self, trainer, pl_module):
        if self.armed:
            raise RuntimeError("the bomb went off")


class Brake(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        number = Path(trainer.default_root_dir).name.partition("-")[0]  # on a node the name of an attempt follows
        file, start = Path(__file__).with_name(number), time.monotonic()
        while file.exists() and time.monotonic() < start + float(file.read_text()):
            time.sleep(0.05)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of the commands; a module `bomb` with callbacks that raise where a config says so, or let an epoch take
    as long as the file of the trial's number says (`brake`), is importable."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "bomb.py").write_text(BOMB)
    paths = [str(tmp_path / "modules"), str(PROJECT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}


def braking(modules: Path) -> Callable[..., None]:
    def brake(seconds: float, *numbers: int) -> None:
        for number in numbers:
            write_atomically(modules / f"{number:04d}", str(seconds))

    return brake


@pytest.fixture
def brake(environment: dict[str, str], tmp_path: Path) -> Callable[..., None]:
    """A function: seconds, and trials' numbers → from now on an epoch of each of them takes so long; 0 lets them go. What is to
    happen while a trial is under way does so then, however fast or busy the machine is."""
    return braking(tmp_path / "modules")


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function: `python -m` arguments → the started process, output and errors in one pipe."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:  # the test has failed: nobody else is to be slowed down
            process.kill()
            process.wait()


@pytest.fixture
def command(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """A function: `python -m` arguments → exit status, and all that was printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        process = start(*arguments)
        output, _ = process.communicate(timeout=900)
        return process.returncode, output

    return run


@pytest.fixture
def write_space(tmp_path: Path, vimh_dataset: Path) -> Callable[..., Path]:
    """A function: the rest of a search space, and more overrides → its file. Trials train a tiny network on tiny data; `brake`
    slows them down."""

    def write(rest: str, *overrides: str, name: str = "tiny") -> Path:
        trial = [
            "experiment=vimh",
            "model=vimh_mlp",
            f"data.data_dir='{vimh_dataset}'",
            "data.generate=null",
            "data.batch_size=64",
            "+callbacks.brake={_target_: bomb.Brake}",
            *([] if any(override.startswith("logger=") for override in overrides) else ["logger=none"]),
            *overrides,
        ]
        lines = ["description: A test's space.", "trial:", *(f'  - "{override}"' for override in trial)]
        path = tmp_path / f"{name}.yaml"
        path.write_text("\n".join(lines) + "\nobjective: {metric: val/avg_acc, mode: max}\n" + rest)
        return path

    return write


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A Ray cluster of three nodes on this machine, where `bomb` is importable."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "bomb.py").write_text(BOMB)
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(modules), prepend=os.pathsep)
            nodes = stack.enter_context(three_nodes())
        yield nodes


@pytest.fixture
def brake_there(nodes: Nodes) -> Callable[..., None]:
    """`brake`, for the trials of sweeps on `nodes`."""
    return braking(Path(nodes.environment["PYTHONPATH"].split(os.pathsep)[0]))
