"""Trials an hour: the platform against what one would use otherwise, on the same trials, in one run.

    python -m benchmarks.throughput                        # a quarter of an hour on two cores
    python -m benchmarks.throughput --environments ~/.cache/sweep-benchmarks   # with Syne Tune and Hydra, twice as long
    python -m benchmarks.throughput --help

Every alternative trains the same MLP through `lhtx.train`, with the same overrides, as often, as many at a time (plain Optuna
and Hydra's own launcher excepted, which know only one), with one thread each, its learning rate proposed by Optuna (by
random search under Syne Tune). All run as a command would, in processes of their own, confined to as many CPUs as there are
trials at a time; they take turns, so that all see the same machine, and the table gives medians over the rounds with the
lowest and the highest.

    platform            python -m sweeps run
    platform, fused     the same with `fuse: auto`, which makes one network in each process of as many trials as are its share
    warm pool           the floor: two processes that import once, and Optuna; nothing is reported, recorded or contained
    Ray, reused actors  Ray Tune with OptunaSearch, the official Lightning callback and `reuse_actors=True`
    stock Ray Tune      the same with Tune's default, a new actor a trial
    plain Optuna        `study.optimize` in one process
    Syne Tune           its local backend
    Hydra, Optuna       the Optuna sweeper with Hydra's own launcher, one trial after another
    Hydra, joblib       the same with the joblib launcher, which waits for each batch as a whole

    total     from the command to the prompt; processor: what all its processes used, which a busy machine stretches less
    start     from the command to the first training; end: from the last training to the prompt
    between   what lies between two trainings of one slot: all that a trial costs beyond its training, starting its
              process, composing, reading the data and writing the results included
    floor     all but start and end, as a ratio to the warm pool's
    stock     stock Ray Tune's total as a ratio to this one's: above 1 is faster

A training lasts from the beginning of `Trainer.fit` to its end; trials that train as one have none of their own. The bounds
stand under the table. Syne Tune and Hydra's sweeper need other versions than the project: with `--environments DIRECTORY`, they
get environments of their own there (made once, about 1.5 GB each, from PyPI).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.alternatives import environments
from benchmarks.alternatives.processor_time import ProcessorTime
from benchmarks.alternatives.workload import HIGH, LOW, METRIC, SEARCHED, Workload

ROOT = Path(__file__).resolve().parent.parent
PLATFORM, FUSED, FLOOR, STOCK = "platform", "platform, fused", "warm pool", "stock Ray Tune"
FULL = {"trainer.max_epochs": 14, "data.generate.size": 6000}
QUICK = {"trainer.max_epochs": 1, "data.generate.size": 200}
HELD = (
    *("threads=1", "trainer.accelerator=cpu", "trainer.devices=1", f"optimized_metric={METRIC}", "optimized_mode=max"),
    *("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
)
"""What the platform sets by itself, and a search space may not."""

PARTS = ("total", "processor", "start", "end", "training", "between")

Command = Callable[[Workload, argparse.Namespace], list[str]]


@dataclass(frozen=True)
class Run:
    """One alternative, once: seconds, as the docstring above calls them."""

    total: float
    processor: float
    start: float
    end: float
    training: float | None
    between: float | None

    @property
    def middle(self) -> float:
        return self.total - self.start - self.end


def platform(workload: Workload, options: argparse.Namespace, fuse: int | str = 1) -> list[str]:
    """A search space is written, which `sweeps run` is given."""
    overrides = workload.trial_overrides(fused=fuse != 1)
    space = {
        "description": "The workload of a benchmark.",
        "trial": [override for override in overrides if override not in HELD],
        "objective": {"metric": METRIC, "mode": "max"},
        "space": {SEARCHED: {"log_uniform": [LOW, HIGH]}},
        "search": {"sampler": "tpe", "trials": workload.trials, "seed": 1},
        "stopping": {"scheduler": "fifo", "guard": {"mode": "off"}},
        "resources": {"cpu": 1},
        "fuse": fuse,
    }
    file = Path(workload.directory) / "benchmark.yaml"
    file.write_text(json.dumps(space))  # every JSON document is one of YAML
    return [sys.executable, "-m", "sweeps", "run", str(file), "--runs", workload.directory]


def fused(workload: Workload, options: argparse.Namespace) -> list[str]:
    """The same, its trials in as few processes as run at a time."""
    return platform(workload, options, fuse="auto")


def script(name: str, *arguments: str, environment: environments.Environment | None = None) -> Command:
    """`python -m benchmarks.alternatives.NAME FILE ARGUMENTS`, in the project's environment or one of its own."""

    def command(workload: Workload, options: argparse.Namespace) -> list[str]:
        file = str(Path(workload.directory) / "workload.json")
        return [_python(environment, options), "-m", f"benchmarks.alternatives.{name}", file, *arguments]

    return command


def syne_tune(workload: Workload, options: argparse.Namespace) -> list[str]:
    """Its backend starts the script by its path."""
    path = ROOT / "benchmarks" / "alternatives" / "syne_tune_local.py"
    return [_python(environments.SYNE_TUNE, options), str(path), "--workload", f"{workload.directory}/workload.json"]


def _python(environment: environments.Environment | None, options: argparse.Namespace) -> str:
    if environment is None:
        return sys.executable
    if options.environments is None:
        raise environments.NotInstallable("needs an environment of its own: --environments says where")
    return str(environment.python(options.environments))


ALTERNATIVES: Mapping[str, Command] = {
    PLATFORM: platform,
    FUSED: fused,
    FLOOR: script("warm_pool"),
    "Ray, reused actors": script("ray_tune", "reused"),
    STOCK: script("ray_tune", "new"),
    "plain Optuna": script("one_process"),
    "Syne Tune": syne_tune,
    "Hydra, Optuna": script("hydra_sweeper", "basic", environment=environments.HYDRA),
    "Hydra, joblib": script("hydra_sweeper", "joblib", environment=environments.HYDRA),
}


def run(command: list[str], workload: Workload) -> Run:
    """Run `command` to its end.

    Raises:
        SystemExit: it failed, or not every trial trained to its end; with the end of what it printed.
    """
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        "PYTHONPATH": str(ROOT),
        "LHTX_ROOT": workload.directory,
        "SYNETUNE_FOLDER": workload.directory,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": "local",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the project's modules are compiled once, as in any shell
    log = Path(workload.directory) / "log.txt"
    with log.open("w") as output:
        launched = time.monotonic()
        with ProcessorTime() as processor:
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
            ended = time.monotonic()
    stamps = [json.loads(line) for line in workload.stamps.read_text().splitlines()] if workload.stamps.exists() else []
    ends = sum(stamp["event"] == "end" for stamp in stamps)
    if done.returncode or ends != workload.trials:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}, {ends} of {workload.trials} trained\n{tail}")
    return measure(stamps, launched, ended, workload.trials, processor.seconds)


def measure(stamps: Sequence[Mapping[str, Any]], launched: float, ended: float, trials: int, processor: float) -> Run:
    """What the stamps of all trials, in the order of their time, say."""
    begun: dict[int, float] = {}
    training, at_once = [], 0
    first, last = stamps[0]["time"], stamps[-1]["time"]
    whole = {"total": ended - launched, "processor": processor, "start": first - launched, "end": ended - last}
    for stamp in stamps:
        if stamp["event"] == "begin":
            if stamp["pid"] in begun:  # several in one process: they train as one
                return Run(**whole, training=None, between=None)
            begun[stamp["pid"]] = stamp["time"]
            at_once = max(at_once, len(begun))
        elif stamp["event"] == "end":
            training.append(stamp["time"] - begun.pop(stamp["pid"]))
    between = (last - first - sum(training) / at_once) / (trials / at_once - 1)
    return Run(**whole, training=median(training), between=between)


def spread(values: Sequence[float], form: str) -> str:
    """The median and, of several, the lowest and the highest."""
    text = format(median(values), form)
    return text if len(values) == 1 else f"{text} ({min(values):{form}}–{max(values):{form}})"


def report(runs: Mapping[str, Sequence[Run]]) -> None:
    """The table: an alternative a row."""
    columns = ("total s", "processor s", "start s", "end s", "training s", "between s", "× floor", "× stock")
    print(f"{'':<20}" + "".join(f"{column:>19}" for column in columns))
    for name, own in runs.items():
        cells = [
            spread([getattr(run, part) for run in own], ".1f" if part in {"total", "processor"} else ".2f")
            if getattr(own[0], part) is not None
            else ""
            for part in PARTS
        ]
        cells += [
            spread(values, ".2f") if values else ""
            for values in (_ratios(runs, name, FLOOR, "middle"), _ratios(runs, STOCK, name))
        ]
        print(f"{name:<20}" + "".join(f"{cell:>19}" for cell in cells))


def _ratios(runs: Mapping[str, Sequence[Run]], name: str, other: str, part: str = "total") -> list[float]:
    """Round by round, a part of one alternative's seconds to the other's; nothing where one of them did not run."""
    return [getattr(a, part) / getattr(b, part) for a, b in zip(runs.get(name, ()), runs.get(other, ()), strict=False)]


def judge(runs: Mapping[str, Sequence[Run]]) -> bool:
    """The bounds: medians of the rounds' ratios, kept or BROKEN; whether all are kept."""
    bounds = [
        ("beyond start and end, to the warm pool", _ratios(runs, PLATFORM, FLOOR, "middle"), 1.15, "at most"),
        ("faster than stock Ray Tune", _ratios(runs, STOCK, PLATFORM), 2.2, "at least"),
        ("start, to stock Ray Tune's", _ratios(runs, PLATFORM, STOCK, "start"), 0.5, "at most"),
        ("end, to stock Ray Tune's", _ratios(runs, PLATFORM, STOCK, "end"), 0.5, "at most"),
        ("fused, faster than Hydra's sweeper", _ratios(runs, "Hydra, Optuna", FUSED), 3.0, "at least"),
    ]
    # These train in processes that start once, one or as many as there are CPUs: no trial by itself can be much faster.
    others = [
        ("faster than Hydra's sweeper", _ratios(runs, "Hydra, Optuna", PLATFORM)),
        ("faster than Hydra's sweeper with joblib", _ratios(runs, "Hydra, joblib", PLATFORM)),
        ("fused, faster than Hydra's sweeper with joblib", _ratios(runs, "Hydra, joblib", FUSED)),
    ]
    print("\nthe platform:")
    broken = 0
    for text, ratios, bound, kind in bounds:
        if ratios:
            kept = median(ratios) <= bound if kind == "at most" else median(ratios) >= bound
            broken += not kept
            print(f"  {text}: {spread(ratios, '.2f')}, {kind} {bound:g}: {'kept' if kept else 'BROKEN'}")
    for text, ratios in others:
        if ratios:
            print(f"  {text}: {spread(ratios, '.2f')}")
    return not broken


def main() -> int:
    """Let the alternatives take turns, and print the table and the bounds. Exit status 1: a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16, help="of every alternative (16)")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at a time, and CPUs (2)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that every alternative takes (3)")
    parser.add_argument("--only", nargs="+", choices=list(ALTERNATIVES), default=list(ALTERNATIVES), metavar="NAME")
    parser.add_argument("--environments", type=Path, help="where the environments of Syne Tune and Hydra are, or are made")
    parser.add_argument("--quick", action="store_true", help="4 trials of no length, one round: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.rounds = 4, 1
    if options.trials < 2 * options.concurrent:
        parser.error(f"--trials {options.trials}: expected at least 2 for each of the {options.concurrent} at a time")
    if not hasattr(os, "sched_setaffinity"):
        parser.error("this system cannot confine processes to CPUs, so the alternatives could not be held to the same ones")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < options.concurrent:
        parser.error(f"--concurrent {options.concurrent}: there are {len(cpus)} CPUs")
    os.sched_setaffinity(0, cpus[: options.concurrent])
    with tempfile.TemporaryDirectory() as directory:
        runs = rounds(Path(directory), options)
    training = [run.training for run in runs.get(FLOOR) or next(iter(runs.values()))]
    ideal = options.trials * median(training) / options.concurrent
    print(
        f"{options.trials} trials, {options.concurrent} at a time, of {spread(training, '.2f')} s of training each, "
        f"{ideal:.1f} s in all; medians of {options.rounds} rounds (lowest–highest)"
    )
    report(runs)
    return 0 if judge(runs) or options.quick else 1


def rounds(directory: Path, options: argparse.Namespace) -> dict[str, list[Run]]:
    """Alternative → its runs. One that cannot be installed is left out, with a message."""
    size = {**(QUICK if options.quick else FULL), "paths.data_dir": directory / "data"}
    own = ("experiment=vimh", "model=vimh_mlp", "test=false", *(f"{key}={value}" for key, value in size.items()))
    generate = "import sys; from lhtx.compose import compose, configure; configure(compose(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", generate, *own], cwd=ROOT, check=True)
    runs: dict[str, list[Run]] = {}
    names = list(options.only)
    for turn in range(options.rounds):
        for name in list(names):
            workload = Workload(
                options.trials, options.concurrent, (*own, *HELD), str(directory / f"{turn}-{list(ALTERNATIVES).index(name)}")
            )
            workload.write()
            try:
                command = ALTERNATIVES[name](workload, options)
            except environments.NotInstallable as reason:
                print(f"{name}: left out; {reason}", flush=True)
                names.remove(name)
                continue
            runs.setdefault(name, []).append(run(command, workload))
            print(f"round {turn + 1}: {name} {runs[name][-1].total:.1f} s", file=sys.stderr, flush=True)
    return runs


if __name__ == "__main__":
    sys.exit(main())
