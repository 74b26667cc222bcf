"""Commands as a user types them, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.faults.nodes import Nodes, three_nodes

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
    def __init__(self, file):
        self.file = Path(file)

    def on_train_epoch_start(self, trainer, pl_module):
        if self.file.exists():
            time.sleep(1)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of the commands; a module `bomb` with callbacks that raise where a config says so, or
    take a second an epoch while a file exists, is importable."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "bomb.py").write_text(BOMB)
    paths = [str(tmp_path / "modules"), str(PROJECT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}


@pytest.fixture
def start(environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """A function: `python -m` arguments → the started process, output and errors in one pipe."""

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def command(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """A function: `python -m` arguments → exit status, and all that was printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        process = start(*arguments)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    return run


@pytest.fixture
def write_space(tmp_path: Path, vimh_dataset: Path) -> Callable[..., Path]:
    """A function: the rest of a search space, and more overrides → its file. Trials train a tiny network on tiny data."""

    def write(rest: str, *overrides: str, name: str = "tiny") -> Path:
        trial = [
            "experiment=vimh",
            "model=vimh_mlp",
            f"data.data_dir='{vimh_dataset}'",
            "data.generate=null",
            "data.batch_size=64",
            *([] if any(override.startswith("logger=") for override in overrides) else ["logger=none"]),
            *overrides,
        ]
        lines = ["description: A test's space.", "trial:", *(f'  - "{override}"' for override in trial)]
        path = tmp_path / f"{name}.yaml"
        path.write_text("\n".join(lines) + "\nobjective: {metric: val/avg_acc, mode: max}\n" + rest)
        return path

    return write


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A Ray cluster of three nodes on this machine."""
    with three_nodes() as nodes:
        yield nodes
