"""Search spaces written for a test, and sweeps made of them without Ray."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sweeps.creation import create_ledger
from sweeps.ledger import Ledger, TrialFiles
from sweeps.space import SearchSpace, load_space
from sweeps.stopping import Verdict
from sweeps.study import SweepStudy
from sweeps.trial import Assignment

BASE = """
description: A test's space.
trial: [experiment=vimh]
objective: {metric: val/avg_acc, mode: max}
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}
"""


@pytest.fixture
def make_space(tmp_path: Path) -> Callable[..., SearchSpace]:
    """A function: YAML text (after a base that has all that is required, unless `base=False`) → the space."""

    def make(text: str = "", name: str = "test", base: bool = True) -> SearchSpace:
        path = tmp_path / f"{name}.yaml"
        path.write_text((BASE if base else "") + text)
        return load_space(path)

    return make


STORAGES = ("sqlite", "journal", "postgresql")
IN_ALL_STORAGES = ("test_study", "test_kills", "test_overview", "test_more", "test_more_failures", "test_objectives")
"""The modules whose tests of sweeps run in every storage, by `make test-slow`; the others, in SQLite."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    everywhere = Path(metafunc.module.__file__).stem in IN_ALL_STORAGES
    if everywhere and "storage" in metafunc.fixturenames and "storage" not in marked:
        slow = [pytest.param(kind, marks=pytest.mark.slow) for kind in STORAGES[1:]]
        metafunc.parametrize("storage", [STORAGES[0], *slow], indirect=True)


@pytest.fixture
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where sweeps that are made in this test have their studies: `sqlite` unless the test asks for another one."""
    kind = getattr(request, "param", STORAGES[0])
    place = request.getfixturevalue("postgresql").secret_url if kind == "postgresql" else kind
    monkeypatch.setenv("SWEEPS_STORAGE", place)
    return kind


@pytest.fixture
def make_ledger(make_space: Callable[..., SearchSpace], tmp_path: Path, storage: str) -> Callable[..., Ledger]:
    """A function: YAML text → the ledger of a sweep in which nothing has run."""

    def make(text: str = "", name: str = "test") -> Ledger:
        ledger = Ledger(name, tmp_path / "runs")
        create_ledger(ledger, make_space(text, name))
        return ledger

    return make


@pytest.fixture
def report_epoch() -> Callable[..., Verdict | None]:
    """A function: study, trial's number, epoch, objective → the verdict. What a trial's process says after one validation."""

    def report(
        study: SweepStudy, number: int, epoch: int, value: float, max_epochs: int = 3, repeated: bool = False, **metrics: float
    ) -> Verdict | None:
        logged = {"val/avg_acc": value, "train/loss": 1.0, **{name.replace("__", "/"): cell for name, cell in metrics.items()}}
        message = {"epoch": epoch, "max_epochs": max_epochs, "parameters": 7, "seconds": float(epoch), "metrics": logged}
        return study.report(number, {**message, "repeated": repeated})

    return report


@pytest.fixture
def run_trial(report_epoch: Callable[..., Verdict | None]) -> Callable[..., int]:
    """A function: study and the objective by epoch → the number of the next trial, which then has finished."""

    def run(study: SweepStudy, values: list[float]) -> int:
        number = study.propose()["number"]
        study.begin(number)
        for epoch, value in enumerate(values, start=1):
            assert report_epoch(study, number, epoch, value, max_epochs=len(values)) is None
        study.finish(number, {"metrics": {"test/avg_acc": 0.4}, "seconds": float(len(values))})
        return number

    return run


@pytest.fixture
def open_study() -> Callable[[Ledger], SweepStudy]:
    """A function: a ledger → its study, as a driver opens it. Every network has 7 parameters."""
    return lambda ledger: SweepStudy(ledger, ledger.space(), lambda overrides: 7)


@pytest.fixture
def console() -> Console:
    """A console that is no terminal; `console.file.getvalue()` is what was printed."""
    return Console(file=io.StringIO(), width=200, force_terminal=False, highlight=False, markup=False)


@pytest.fixture
def checkpoint() -> Callable[[TrialFiles, int], None]:
    """A function: a trial's files and epoch → checkpoints as the trial leaves them after so many epochs."""

    def write(files: TrialFiles, epoch: int) -> None:
        files.checkpoints.mkdir(parents=True)
        directory = str(files.checkpoints.resolve())
        best = {"dirpath": directory, "best_model_path": f"{directory}/best.ckpt", "best_model_score": torch.tensor(0.5)}
        best["best_k_models"] = {f"{directory}/best.ckpt": torch.tensor(0.5)}
        content = {"state_dict": {"weight": torch.ones(2)}, "epoch": epoch - 1, "callbacks": {"ModelCheckpoint{'a': 1}": best}}
        for name in ("best", "last"):
            torch.save(content, files.checkpoints / f"{name}.ckpt")
        (files.directory / "tensorboard").mkdir()
        (files.directory / "tensorboard" / "events").write_bytes(b"events")
        (files.directory / "metrics.json").write_text("{}")

    return write


@pytest.fixture
def save_last() -> Callable[[TrialFiles, int], None]:
    """A function: a trial's files and epoch → the least last checkpoint that another trial can be a copy of."""

    def save(files: TrialFiles, epoch: int) -> None:
        files.checkpoints.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": {}, "epoch": epoch - 1}, files.last_checkpoint)

    return save


@pytest.fixture
def ended(
    make_ledger: Callable[..., Ledger],
    open_study: Callable[[Ledger], SweepStudy],
    run_trial: Callable[..., int],
    checkpoint: Callable[[TrialFiles, int], None],
) -> Ledger:
    """A sweep of three trials of two epochs, of which the first has checkpoints."""
    ledger = make_ledger("search: {trials: 3, seed: 3}\nstopping: {scheduler: fifo}\n")
    study = open_study(ledger)
    for values in ([0.5, 0.4], [0.3, 0.2], [0.1, 0.2]):
        run_trial(study, values)
    checkpoint(ledger.trial(0), 2)
    return ledger


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., Assignment]:
    """A function: number and more overrides → a trial of a tiny network in double precision, two epochs of four batches."""

    def make(number: int, *more: str, name: str = "trials") -> Assignment:
        directory = tmp_path / name / f"{number:04d}"
        directory.mkdir(parents=True, exist_ok=True)
        chosen = [
            *(
                "data=digits",
                "model=digits_mlp",
                "trainer=cpu",
                "logger=none",
                "threads=1",
                f"paths.data_dir={tmp_path / 'data'}",
            ),
            *("model.net.lin1_size=12", "model.net.lin2_size=12", "model.net.lin3_size=12", "trainer.precision=64-true"),
            *("trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1", "data.seed=7"),
            *(f"seed={number}", f"model.optimizer.lr={0.002 * (number + 1)}", *more),
        ]
        return Assignment(number, tuple(chosen), str(directory))

    return make
