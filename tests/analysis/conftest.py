"""Ledgers as a sweep leaves them, made of a real study and real files, with known values in them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from sweeps.ledger import History, Ledger
from sweeps.recorded import PREFIX

STATES = {
    "finished": TrialState.COMPLETE,
    "spent": TrialState.COMPLETE,
    "outranked": TrialState.PRUNED,
    "broken": TrialState.FAIL,
    "failed": TrialState.FAIL,
    "rejected": TrialState.FAIL,
    "running": TrialState.RUNNING,
}
START = datetime(2026, 1, 2, 9, 0, 0)
DISTRIBUTIONS = {
    "model": CategoricalDistribution(["vimh_mlp", "vimh_sdn", "vimh_cnn"]),
    "data.target_width": FloatDistribution(0.0, 3.0),
    "model.optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "data.batch_size": IntDistribution(32, 512),
    "model.net.auxiliary_hidden_size": CategoricalDistribution([8, 16, 32]),
    "optimizer": CategoricalDistribution([1, "adam"]),
}


@dataclass
class Made:
    """A trial to be written: its objective by epoch (from 1), how it ended, what it was."""

    values: Sequence[Any] = ()
    """Of several objectives, a tuple an epoch."""
    verdict: str = "finished"
    reason: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    shadow: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 1
    parameters: int = 64_000
    max_epochs: int = 10
    started: float = 0.0
    """Seconds after the sweep's start."""
    seconds: float = 10.0
    pause: float = 0.0
    """Seconds between its start and its end in which it did not train, since the sweep was interrupted."""
    error: str = ""
    gradients: bool = True
    origin: dict[str, int] = field(default_factory=dict)
    """`{"retries": 3}`, `{"repeats": 3}` or `{"continues": 3}`: then the epochs that it has in common with that trial are
    copied."""
    violations: dict[str, float] = field(default_factory=dict)
    """By outcome constraint: 0 or less is within."""


Write = Callable[..., Ledger]


def note(made: Made) -> dict[str, Any]:
    """The attributes that a sweep gives a trial."""
    if made.verdict == "rejected":
        return {"verdict": {"verdict": "rejected", "reason": made.reason, "epoch": None, "numbers": {}}}
    notes: dict[str, Any] = {
        "overrides": ["experiment=vimh", *(f"{key}={value}" for key, value in made.params.items()), f"seed={made.seed}"],
    }
    if made.values:
        notes |= {"parameters": made.parameters, "max_epochs": made.max_epochs}
    notes |= made.origin
    if made.values and isinstance(made.values[0], tuple):
        for epoch, values in enumerate(made.values, start=1):
            notes[f"{PREFIX}{epoch}"] = [repr(float(value)) for value in values]
    if made.metrics:
        notes["metrics"] = made.metrics
    if made.shadow:
        notes["shadow"] = made.shadow
    if made.verdict != "running":
        epoch = len(made.values) or None
        notes |= {"epochs": len(made.values), "seconds": made.seconds}
        notes["verdict"] = {"verdict": made.verdict, "reason": made.reason, "epoch": epoch, "numbers": {}}
    return notes


def frozen(made: Made, mode: str) -> optuna.trial.FrozenTrial:
    state = STATES[made.verdict]
    several = bool(made.values) and isinstance(made.values[0], tuple)
    epochs = [values if several else (values,) for values in made.values]
    finite = [values for values in epochs if all(map(math.isfinite, values))]
    best = max(finite, key=lambda values: values[0] if mode == "max" else -values[0], default=None)
    start = START + timedelta(seconds=made.started)
    trial = optuna.trial.create_trial(
        state=state,
        values=best if state == TrialState.COMPLETE else None,
        params=made.params,
        distributions={key: DISTRIBUTIONS.get(key) or CategoricalDistribution([made.params[key]]) for key in made.params},
        intermediate_values={} if several else dict(enumerate(made.values, start=1)),
        user_attrs=note(made),
        constraints=made.violations or None,
    )
    trial.datetime_start = start
    trial.datetime_complete = start + timedelta(seconds=made.seconds + made.pause) if state.is_finished() else None
    return trial


def write_files(ledger: Ledger, number: int, made: Made, metric: str) -> None:
    if made.verdict == "rejected":
        return
    files = ledger.trial(number)
    files.directory.mkdir(parents=True)
    if made.error:
        files.error.write_text(made.error)
    history = History.open(files.history)
    for epoch, value in enumerate(made.values, start=1):
        metrics = {"train/loss": 1.0 / epoch, metric: value[0] if isinstance(value, tuple) else value}
        if made.gradients:
            evidence = -1.0 + 1.2 * epoch / made.max_epochs + 0.05 * (number % 3)
            metrics |= {
                "grad/evidence": evidence,
                "grad/snr": 1.0 - evidence,
                "grad/noise_scale": 100.0 * epoch * (1 + number % 4),
                "grad/epoch_mean": 2.0 / epoch * (1 + number % 5),
            }
        last = epoch == len(made.values) and made.verdict != "running"
        history.append(epoch, made.seconds * epoch / len(made.values), metrics, made.verdict if last else "")


@pytest.fixture(scope="session")
def empty_study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with optuna's tables and nothing in them: to make those takes longer than all else in a test."""
    path = tmp_path_factory.mktemp("empty") / "study.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}").engine.dispose()
    return path


def write_sweep(
    root: Path,
    empty_study_file: Path,
    trials: Sequence[Made],
    name: str = "demo",
    mode: str = "max",
    metric: str = "val/avg_acc",
    target: int = 0,
    others: Sequence[tuple[str, str]] = (),
    stopping: str = "{scheduler: asha}",
    end: str | None = None,
) -> Ledger:
    """Args: others: metric and mode of the objectives after the first; stopping: as a search space has it; end: how the
    last session ended."""
    ledger = Ledger(name, root)
    ledger.trials_directory.mkdir(parents=True)
    shutil.copy(empty_study_file, ledger.directory / "study.db")
    space = f"description: Which is best?\nsearch: {{trials: {target or len(trials)}}}\nstopping: {stopping}\n"
    ledger.space_file.write_text(space)
    session = {"started": "2026-01-02T09:00:00+00:00", "command": f"python -m sweeps run {name}", "code": {"commit": "a" * 40}}
    session |= {"end": end} if end else {}
    ledger.write_manifest({"name": name, "seed": 1, "sessions": [session]})
    objectives = [(metric, mode), *others]
    directions = ["maximize" if one == "max" else "minimize" for _, one in objectives]
    study = optuna.create_study(study_name=name, storage=ledger.storage, directions=directions)
    study.set_user_attr("metric", metric)
    study.set_user_attr("mode", mode)
    if others:
        study.set_user_attr("objectives", [{"metric": metric, "mode": mode} for metric, mode in objectives])
    for number, made in enumerate(trials):
        study.add_trial(frozen(made, mode))
        write_files(ledger, number, made, metric)
    return ledger


@pytest.fixture
def write_ledger(tmp_path: Path, empty_study_file: Path) -> Write:
    """Write a sweep of the given trials under `tmp_path` and return its ledger."""
    return partial(write_sweep, tmp_path, empty_study_file)


@pytest.fixture(scope="session")
def search_ledger(tmp_path_factory: pytest.TempPathFactory, empty_study_file: Path) -> Ledger:
    """A search of 60 trials with every verdict in it. Nothing but its report may be written to."""
    return write_sweep(tmp_path_factory.mktemp("search"), empty_study_file, search(60))


@pytest.fixture
def made() -> type[Made]:
    """The class of trials to write."""
    return Made


def search(count: int, seed: int = 0) -> list[Made]:
    """A search of `count` trials under successive halving: the learning rate decides, the batch size does nothing."""
    generator = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        model = str(generator.choice(["vimh_mlp", "vimh_sdn", "vimh_cnn"]))
        rate = float(10 ** generator.uniform(-4, -1))
        params = {
            "model": model,
            "data.target_width": float(generator.uniform(0, 3)),
            "model.optimizer.lr": rate,
            "data.batch_size": int(generator.integers(32, 513)),
        }
        if model == "vimh_cnn":
            params["model.net.auxiliary_hidden_size"] = int(generator.choice([8, 16, 32]))
        top = 0.9 - 0.2 * abs(math.log10(rate) + 2.5) + (0.05 if model == "vimh_cnn" else 0.0)
        curve = [top * (1 - math.exp(-epoch / 3)) + float(generator.normal(0, 0.01)) for epoch in range(1, 11)]
        common = {"params": params, "seed": number, "started": 5.0 * number, "parameters": 10_000 + 100 * number}
        if number % 12 == 5:
            error = "Traceback (most recent call last):\nRuntimeError: CUDA out of <b>memory</b></script>"
            trials.append(Made((), "failed", "RuntimeError: CUDA out of <b>memory</b>", error=error, **common))
        elif number % 12 == 7:
            trials.append(Made((*curve[:3], math.nan), "broken", "not finite: objective = nan", **common))
        elif number % 12 == 9:
            trials.append(Made((), "rejected", "constraint parameters <= 200_000", **common))
        elif top < 0.75:
            trials.append(Made(curve[:2], "outranked", "7 of 9 at the rung of 2 epochs", **common))
        else:
            shadow = [{"verdict": "spent", "reason": "noise", "epoch": 8, "numbers": {}}] if number % 4 == 0 else []
            test = {"test/avg_acc": max(curve) - 0.02 + float(generator.normal(0, 0.01)), "test/loss": 0.4}
            trials.append(Made(curve, "finished", "ran all its 10 epochs", metrics=test, shadow=shadow, **common))
    return trials


@pytest.fixture
def make_search() -> Callable[..., list[Made]]:
    """A seeded search with every verdict in it: see `search`."""
    return search
