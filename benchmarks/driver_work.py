"""Sweeps of trials that do nothing, driven in this process, and what the driver spends on them: for `driver_scaling.py`."""

from __future__ import annotations

import cProfile
import io
import json
import os
import pstats
import random
import resource
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter, deque
from pathlib import Path
from typing import Any

SPACE = """
description: A sweep whose trials do nothing.
trial: [experiment=vimh]
objective: {objective}
space:
  model.optimizer.lr: {{log_uniform: [1.0e-4, 1.0e-1]}}
  model.optimizer.weight_decay: {{log_uniform: [1.0e-6, 1.0e-2]}}
  data.target_width: {{uniform: [0.0, 3.0]}}
  data.batch_size: {{power_of_two: [32, 512]}}
search: {{trials: {trials}, seed: 1, {search}}}
stopping: {{{stopping}, guard: {{mode: act}}}}
{more}
"""
ONE, TWO = "{metric: val/avg_acc, mode: max}", "[{metric: val/avg_acc, mode: max}, {metric: val/loss, mode: min}]"
PLAIN = {"objective": ONE, "search": "sampler: random", "stopping": "scheduler: fifo", "more": ""}
CASES: dict[str, dict[str, str]] = {
    "random": {},
    "tpe": {"search": "sampler: tpe"},
    "asha": {"stopping": "scheduler: asha, grace_epochs: 1"},
    "median": {"stopping": "scheduler: median, grace_epochs: 1"},
    "objectives": {"objective": TWO, "stopping": "scheduler: asha, grace_epochs: 1"},
    "repeats": {"search": "sampler: random, repeats: {seeds: 3, top: 10}"},
    "quota": {"more": "keep_checkpoints: best 5, last 2"},
    "budget": {"more": "budget: {epochs: 1000000000, hours: 1000, cost: 1000000, prices: {cpu: 1}}"},
}
"""What each case has that `PLAIN` has not."""


def metrics(number: int, epoch: int) -> dict[str, float]:
    """What a trial reports; names as a real trial's."""
    draw = random.Random(number)
    value = draw.random() + epoch / 1000
    return {
        "val/avg_acc": value,
        **{f"{split}/{name}": value for split in ("train", "val") for name in ("a/acc", "b/acc", "a/mae", "b/mae")},
        **{f"{split}/loss": draw.random() for split in ("train", "val")},
        **{f"grad/{name}": 1.0 + draw.random() for name in ("epoch_mean", "norm_last", "snr")},
        "grad/evidence": -1.0,
    }


def make(directory: Path, trials: int, case: str) -> Any:
    """A ledger in which nothing has run."""
    from sweeps.creation import create_ledger
    from sweeps.ledger import Ledger
    from sweeps.space import load_space

    file = directory / "scaling.yaml"
    file.write_text(SPACE.format(trials=trials, **PLAIN | CASES[case]))
    ledger = Ledger("scaling", directory / "runs")
    create_ledger(ledger, load_space(file))
    return ledger


def open_study(ledger: Any) -> Any:
    """The study, which this process now holds."""
    from sweeps.study import SweepStudy

    def no_size(overrides: list[str]) -> int:
        raise AssertionError("no constraint asks for the size")

    return SweepStudy(ledger, ledger.space(), no_size)


class Driver:
    """Takes trials through all their epochs, `concurrent` at a time, an epoch of each in turn, with all that a driver does
    beside."""

    def __init__(self, study: Any, progress: Any, epochs: int, concurrent: int) -> None:
        self._study, self._progress = study, progress
        self._epochs, self._concurrent = epochs, concurrent
        self._running: deque[tuple[int, int]] = deque()
        self._checkpoints = study.space.outputs.keep_checkpoints is not None

    def drive(self, until: int) -> None:
        """Go on until so many trials have ended, or all have."""
        study, running = self._study, self._running
        while study.ended.total() < until:
            while len(running) < self._concurrent and (proposal := study.propose()):
                study.begin(proposal["number"])
                running.append((proposal["number"], 1))
            if not running:
                return
            number, epoch = running.popleft()
            verdict = study.report(number, {**self._message(number, epoch), "repeated": False})
            if verdict is None and epoch < self._epochs:
                running.append((number, epoch + 1))
            elif verdict is None:
                study.finish(number, self._message(number, epoch))
            self._progress.update()

    def _message(self, number: int, epoch: int) -> dict[str, Any]:
        if self._checkpoints and epoch == self._epochs:
            directory = self._study.ledger.trial(number).checkpoints
            directory.mkdir(exist_ok=True)
            for name in ("best.ckpt", "last.ckpt"):
                (directory / name).touch()
        own = {"epoch": epoch, "max_epochs": self._epochs, "parameters": 1000, "seconds": float(epoch)}
        return {**own, "metrics": metrics(number, epoch)}


def measure(options: Namespace) -> dict[str, Any]:
    """One sweep of the study alone."""
    from rich.console import Console

    from sweeps.housekeeping import beside
    from sweeps.notify import Notification
    from sweeps.progress import Progress
    from sweeps.storage import writing_ahead

    console = Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as directory:
        ledger = make(Path(directory), options.trials, options.case)
        study = open_study(ledger)
        before, part = peak(), max(1, options.trials // 10)
        milliseconds, wall, grown = [], time.perf_counter(), []
        with (
            writing_ahead(ledger.storage, ledger.place, ledger.directory),
            beside(study, console, Notification()),
            Progress(study, console, options.concurrent) as progress,
        ):
            driver = Driver(study, progress, options.epochs, options.concurrent)
            for until in (part, options.trials - part, options.trials, sys.maxsize):
                profiler = cProfile.Profile()
                start = time.process_time()
                if options.profile and until in (part, options.trials):
                    profiler.enable()
                driver.drive(until)
                profiler.disable()
                milliseconds.append((time.process_time() - start) * 1e3)
                if options.profile and until in (part, options.trials):
                    grown.append(own_times(profiler, part))
        took, held = (time.perf_counter() - wall) * 1e3, peak() - before
        return {
            "mean": sum(milliseconds) / study.ended.total(),
            "last": milliseconds[2] / part,
            "wall": took / study.ended.total(),
            "peak": held,
            "profile": [(text, first, last) for text, (first, last) in growth(*grown)] if options.profile else [],
            **read_again(ledger),
        }


def read_again(ledger: Any) -> dict[str, float]:
    """What it takes to read a sweep: a driver that resumes it, `status`, and the frames of a report; ms a trial."""
    from analysis.load import load
    from sweeps.ledger import Ledger
    from sweeps.overview import overview

    found = {}
    for name, read in (("resume", open_study), ("status", overview), ("load", lambda again: load(again.name, again.root))):
        start = time.process_time()
        read(Ledger(ledger.name, ledger.root))
        found[name] = (time.process_time() - start) * 1e3 / len(ledger.study().get_trials(deepcopy=False))
    return found


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def own_times(profiler: cProfile.Profile, trials: int) -> Counter[str]:
    """Function → own milliseconds a trial."""
    times: Counter[str] = Counter()
    for (file, line, name), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():
        where = "/".join(Path(file).parts[-2:])
        times[f"{name} ({where}:{line})" if line else name] += own * 1e3 / trials
    return times


def growth(first: Counter[str], last: Counter[str]) -> list[tuple[str, tuple[float, float]]]:
    """The functions that became dearer by most, with what they cost at first and in the end."""
    grown = sorted(last, key=lambda name: first[name] - last[name])
    return [(name, (first[name], last[name])) for name in grown[:12] if last[name] - first[name] > 0.02]


def measure_tune(options: Namespace) -> dict[str, Any]:
    """One sweep that Ray Tune drives, with the study's searcher and scheduler and actors that do nothing, in this process."""
    from sweeps import ray_cluster

    os.environ.update(ray_cluster._ENVIRONMENT)
    import ray
    from ray import tune

    from sweeps.groups import Groups
    from sweeps.searcher import StudyScheduler, StudySearcher
    from sweeps.storage import writing_ahead
    from sweeps.trainable import PAYLOAD

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.epoch, group = 0, new_config["group"]
            self.number = group[0]["number"] if group else None
            return True

        def step(self) -> dict[str, Any]:
            self.epoch += 1
            if self.epoch > options.epochs:
                message = {"kind": "finished", "metrics": metrics(self.number, options.epochs), "seconds": 1.0}
            else:
                own = {"epoch": self.epoch, "metrics": metrics(self.number, self.epoch), "seconds": float(self.epoch)}
                message = {"kind": "report", "max_epochs": options.epochs, "parameters": 1000, "repeated": False, **own}
            return {PAYLOAD: json.dumps(message), "done": self.epoch > options.epochs}

    class Clock(tune.Callback):
        """Notes the time at which each trial is complete."""

        def __init__(self) -> None:
            self.processor: list[float] = []

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            study.begin(trial.config["group"][0]["number"])

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.processor.append(time.process_time())

    ray.init(address="local", num_cpus=options.concurrent, include_dashboard=False, log_to_driver=False, logging_level=40)
    with tempfile.TemporaryDirectory() as directory:
        ledger = make(Path(directory), options.trials, options.case)
        study = open_study(ledger)
        clock, groups = Clock(), Groups(study, options.concurrent)
        before, wall = peak(), time.perf_counter()
        with writing_ahead(ledger.storage, ledger.place, ledger.directory):
            tune.run(
                Nothing,
                search_alg=StudySearcher(study, groups),
                scheduler=StudyScheduler(study, groups),
                callbacks=[clock],
                num_samples=-1,
                resources_per_trial={"cpu": 1},
                reuse_actors=True,
                storage_path=directory,
                raise_on_failed_trial=False,
                verbose=0,
            )
        took, held = (time.perf_counter() - wall) * 1e3 / options.trials, peak() - before
    ray.shutdown()
    part, times = max(1, options.trials // 10), clock.processor
    return {
        "mean": (times[-1] - times[0]) * 1e3 / (len(times) - 1),
        "last": (times[-1] - times[-1 - part]) * 1e3 / part,
        "wall": took,
        "peak": held,
    }
