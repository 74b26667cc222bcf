"""What the driver spends on a trial, as a sweep grows: 10, 100, 1,000 trials of a function that does nothing.

    python -m benchmarks.driver_scaling                     # a few minutes on one core
    python -m benchmarks.driver_scaling --full              # up to 10,000
    python -m benchmarks.driver_scaling --tune              # with a real Ray Tune as well
    python -m benchmarks.driver_scaling --storage journal   # or postgresql://user@host/database, with PGPASSWORD
    python -m benchmarks.driver_scaling --help

Every trial is proposed, begun, reports `--epochs` times and finishes, through the sweep's own study and ledger (its storage and
the trials' files; no Ray, no training), with as many at a time as `--concurrent`. Each number of trials is a sweep of its
own, in a process of its own. The figures are processor time, which a busy machine does not stretch.

    ms a trial    over the whole sweep, and over its last tenth
    resume        ms a trial that reading the sweep again takes a new driver
    slope         by how many ms a trial becomes dearer with every thousand trials before it
    peak          memory of the process beyond what it held before the sweep, and a trial's share of it

The bound: in the last tenth of the largest sweep a trial costs at most `--growth` times what it costs in the smallest, that
is, the share of the driver stays flat. TPE looks at all trials for each proposal and grows by nature; random search shows what
is the ledger's and the study's. Where the bound is broken, the functions whose own time a trial grew the most from the first
tenth of the largest sweep to its last are printed (cProfile). `--tune` adds rows in which Ray Tune drives reused actors that do
nothing: what it costs beyond ours.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

SPACE = """
description: A sweep whose trials do nothing.
trial: [experiment=vimh]
objective: {{metric: val/avg_acc, mode: max}}
space:
  model.optimizer.lr: {{log_uniform: [1.0e-4, 1.0e-1]}}
  model.optimizer.weight_decay: {{log_uniform: [1.0e-6, 1.0e-2]}}
  data.target_width: {{uniform: [0.0, 3.0]}}
  data.batch_size: {{power_of_two: [32, 512]}}
search: {{sampler: {sampler}, trials: {trials}, seed: 1}}
stopping: {{scheduler: asha, guard: {{mode: act}}}}
"""


def metrics(number: int, epoch: int) -> dict[str, float]:
    """What a trial reports: ever better, so that no scheduler ends it; names as a real trial's."""
    value = number + epoch / 100
    return {
        "val/avg_acc": value,
        **{f"{split}/{name}": value for split in ("train", "val") for name in ("loss", "a/acc", "b/acc", "a/mae", "b/mae")},
        **{f"grad/{name}": 1.0 for name in ("epoch_mean", "norm_last", "snr", "evidence")},
        "grad/evidence": -1.0,
    }


def make(directory: Path, trials: int, sampler: str) -> Any:
    """A ledger in which nothing has run."""
    from sweeps.creation import create_ledger
    from sweeps.ledger import Ledger
    from sweeps.space import load_space

    file = directory / "scaling.yaml"
    file.write_text(SPACE.format(trials=trials, sampler=sampler))
    ledger = Ledger("scaling", directory / "runs")
    create_ledger(ledger, load_space(file))
    return ledger


def open_study(ledger: Any) -> Any:
    """The study, which this process now holds."""
    from sweeps.study import SweepStudy

    def no_size(overrides: list[str]) -> int:
        raise AssertionError("no constraint asks for the size")

    return SweepStudy(ledger, ledger.space(), no_size)


def drive(study: Any, trials: int, epochs: int, concurrent: int) -> None:
    """Take `trials` trials from the study through all their epochs, `concurrent` at a time, an epoch of each in turn."""
    running: deque[tuple[int, int]] = deque()
    begun = 0
    while begun < trials or running:
        while begun < trials and len(running) < concurrent:
            number = study.propose()["number"]
            study.begin(number)
            running.append((number, 1))
            begun += 1
        number, epoch = running.popleft()
        message = {"epoch": epoch, "max_epochs": epochs, "parameters": 1000, "seconds": float(epoch), "repeated": False}
        study.report(number, {**message, "metrics": metrics(number, epoch)})
        if epoch < epochs:
            running.append((number, epoch + 1))
        else:
            study.finish(number, {"metrics": metrics(number, epoch), "seconds": float(epoch)})
        for _ in study.news():
            pass


def measure(options: argparse.Namespace, profile: bool) -> dict[str, Any]:
    """One sweep, in this process."""
    with tempfile.TemporaryDirectory() as directory:
        ledger = make(Path(directory), options.trials, options.sampler)
        study = open_study(ledger)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        part = max(1, options.trials // 10)
        milliseconds, grown = [], []
        for trials in (part, options.trials - 2 * part, part):
            profiler = cProfile.Profile()
            start = time.process_time()
            if profile and trials == part:
                profiler.enable()
            drive(study, trials, options.epochs, options.concurrent)
            profiler.disable()
            milliseconds.append((time.process_time() - start) * 1e3)
            if profile and trials == part:
                grown.append(own_times(profiler, part))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        open_study(ledger)
        return {
            "mean": sum(milliseconds) / options.trials,
            "last": milliseconds[-1] / part,
            "resume": (time.process_time() - start) * 1e3 / options.trials,
            "peak": (peak - before) / (2**20 if sys.platform == "darwin" else 2**10),
            "profile": [(text, first, last) for text, (first, last) in growth(*grown)] if profile else [],
        }


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


def measure_tune(options: argparse.Namespace) -> dict[str, Any]:
    """One sweep that Ray Tune drives, with the study's searcher and scheduler and actors that do nothing, in this process."""
    from sweeps import runner

    os.environ.update(runner._ENVIRONMENT)
    import ray
    from ray import tune

    from sweeps.searcher import StudyScheduler, StudySearcher
    from sweeps.trainable import PAYLOAD

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.number, self.epoch = new_config["number"], 0
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
            study.begin(trial.config["number"])

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.processor.append(time.process_time())

    ray.init(address="local", num_cpus=options.concurrent, include_dashboard=False, log_to_driver=False, logging_level=40)
    with tempfile.TemporaryDirectory() as directory:
        study = open_study(make(Path(directory), options.trials, options.sampler))
        clock = Clock()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tune.run(
            Nothing,
            search_alg=StudySearcher(study),
            scheduler=StudyScheduler(study),
            callbacks=[clock],
            num_samples=-1,
            resources_per_trial={"cpu": 1},
            reuse_actors=True,
            storage_path=directory,
            raise_on_failed_trial=False,
            verbose=0,
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ray.shutdown()
    part, times = max(1, options.trials // 10), clock.processor
    return {
        "mean": (times[-1] - times[0]) * 1e3 / (len(times) - 1),
        "last": (times[-1] - times[-1 - part]) * 1e3 / part,
        "peak": (peak - before) / 2**10,
    }


def row(label: str, trials: int, found: dict[str, Any], previous: tuple[int, dict[str, Any]] | None) -> None:
    """Print one sweep's figures; the slope against the sweep before it, which was smaller."""
    slope = (found["last"] - previous[1]["last"]) / (trials - previous[0]) * 1e3 if previous else None
    resume = f"{found['resume']:>8.2f}" if "resume" in found else f"{'':>8}"
    told = f"{slope:>8.2f}" if slope is not None else f"{'':>8}"
    share = f"{found['peak'] / trials * 2**10:>9.1f}"
    print(
        f"{label:<14}{trials:>7,}{found['mean']:>9.2f}{found['last']:>9.2f}{resume}{told}{found['peak']:>8.1f}{share}",
        flush=True,
    )


def main() -> int:
    """One row for each sampler and number of trials; with `--trials`, the one sweep of this process, as JSON.
    Exit status 1: the bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10, 100, 1000], help="numbers of trials, ascending (10 100 1000)"
    )
    parser.add_argument("--full", action="store_true", help="10,000 as well")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"], help="(random tpe)")
    parser.add_argument("--epochs", type=int, default=3, help="reports of a trial (3)")
    parser.add_argument("--storage", default="sqlite", help="sqlite, journal, or the URL of a PostgreSQL database (sqlite)")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at a time (2)")
    parser.add_argument("--growth", type=float, default=1.5, help="the bound (1.5)")
    parser.add_argument("--tune", action="store_true", help="Ray Tune as well")
    parser.add_argument("--quick", action="store_true", help="10 and 20 trials: does it run?")
    for internal in ("--trials", "--sampler", "--driver"):
        parser.add_argument(internal, type=int if internal == "--trials" else str, help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trials:
        found = measure_tune(options) if options.driver == "tune" else measure(options, options.profile)
        print(json.dumps(found))
        return 0
    broken = 0
    sizes = [10, 20] if options.quick else [*options.sizes, *([10_000] if options.full else [])]
    print(f"{'driver':<14}{'trials':>7}{'ms':>9}{'ms, last':>9}{'resume':>8}{'slope':>8}{'peak MB':>8}{'kB each':>9}")
    for driver in ("study", "tune") if options.tune else ("study",):
        for sampler in options.samplers:
            previous, smallest = None, None
            for trials in sizes:
                found = child(options, trials, sampler, driver)
                row(f"{driver}, {sampler}", trials, found, previous)
                previous, smallest = (trials, found), smallest or found["mean"]
            grown = found["last"] / smallest
            kept = grown <= options.growth
            broken += not kept
            print(f"  {grown:.2f} times the smallest sweep's, at most {options.growth:g}: {'kept' if kept else 'BROKEN'}")
            if not kept and driver == "study":
                for text, first, last in child(options, sizes[-1], sampler, driver, "--profile")["profile"]:
                    print(f"    {first:>8.3f} → {last:>8.3f} ms  {text}")
    return 1 if broken and not options.quick else 0


def child(options: argparse.Namespace, trials: int, sampler: str, driver: str, *more: str) -> dict[str, Any]:
    """What a process of its own measures."""
    own = ["--trials", str(trials), "--sampler", sampler, "--driver", driver, *more]
    passed = ["--epochs", str(options.epochs), "--concurrent", str(options.concurrent)]
    command = [sys.executable, "-m", "benchmarks.driver_scaling", *own, *passed]
    environment = {**os.environ, "SWEEPS_STORAGE": options.storage}  # not an argument: it may hold a password
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
