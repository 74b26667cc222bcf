"""What the driver spends on a trial, as a sweep grows: 10, 100, 1,000 trials of a function that does nothing.

    python -m benchmarks.driver_scaling                                   # a few minutes on one core
    python -m benchmarks.driver_scaling --full                            # up to 10,000
    python -m benchmarks.driver_scaling --storage sqlite postgresql journal
    python -m benchmarks.driver_scaling --cases asha objectives repeats quota
    python -m benchmarks.driver_scaling --epochs 3 30                     # what an epoch's report costs
    python -m benchmarks.driver_scaling --tune                            # with a real Ray Tune as well
    python -m benchmarks.driver_scaling --help

Every trial is proposed, begun, reports `--epochs` times and finishes, through the sweep's own study and ledger, with all that a
driver does beside (its storage, the trials' files, TensorBoard's table, the display; no Ray, no training), with as many at a
time as `--concurrent`. Each number of trials is a sweep of its own, in a process of its own. The figures are processor time,
which a busy machine does not stretch; PostgreSQL is a server that is started for this (its own time is not the driver's).

    ms a trial    over the whole sweep, and over its last tenth; then by the clock, with all waiting for the disk
    slope         by how many ms a trial becomes dearer with every thousand trials before it
    resume, …     ms a trial that it takes to read the sweep again: a new driver, `status`, the frames of a report
    peak          memory of the process beyond what it held before the sweep, and a trial's share of it

The bound: in the last tenth of the largest sweep a trial costs at most `--growth` times what it costs on average in the least
one of at least a hundred, that is, the share of the driver stays flat. TPE looks at all trials for each proposal and grows by
nature, which is Optuna's share (its bound is infinite, and it runs up to 1,000). Where the bound is broken, the functions whose
own time a trial grew the most from the first tenth of the largest sweep to its last are printed (cProfile).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from benchmarks.driver_work import CASES, measure, measure_tune

MOST = {"tpe": 1000}
"""The largest sweep of a case."""
COLUMNS = ("resume", "status", "load")


def row(label: str, trials: int, found: dict[str, Any], previous: tuple[int, dict[str, Any]] | None) -> None:
    """Print one sweep's figures; the slope against the sweep before it, which was smaller."""
    slope = (found["last"] - previous[1]["last"]) / (trials - previous[0]) * 1e3 if previous else math.nan
    told = "".join(f"{found.get(name, math.nan):>8.2f}" for name in ("mean", "last", "wall"))
    told += f"{slope:>8.2f}" + "".join(f"{found.get(name, math.nan):>8.2f}" for name in COLUMNS)
    print(
        f"{label:<34}{trials:>7,}{told}{found['peak']:>8.1f}{found['peak'] / trials * 2**10:>8.1f}".replace("nan", "  –"),
        flush=True,
    )


def main() -> int:
    """One row for each case, storage and number of trials; with `--trials`, the one sweep of this process, as JSON.
    Exit status 1: a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10, 100, 1000], help="numbers of trials, ascending (10 100 1000)"
    )
    parser.add_argument("--full", action="store_true", help="10,000 as well")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["random", "tpe"], help=f"{' '.join(CASES)} (random tpe)")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3], help="reports of a trial (3)")
    parser.add_argument(
        "--storage", nargs="+", default=["sqlite"], help="sqlite, journal, postgresql or the URL of a database (sqlite)"
    )
    parser.add_argument("--concurrent", type=int, default=2, help="trials at a time (2)")
    parser.add_argument("--growth", type=float, default=1.5, help="the bound (1.5)")
    parser.add_argument("--tune", action="store_true", help="Ray Tune as well")
    parser.add_argument("--quick", action="store_true", help="10 and 20 trials: does it run?")
    for internal in ("--trials", "--case", "--driver"):
        parser.add_argument(internal, type=int if internal == "--trials" else str, help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trials:
        options.epochs = options.epochs[0]
        print(json.dumps(measure_tune(options) if options.driver == "tune" else measure(options)))
        return 0
    sizes = [10, 20] if options.quick else [*options.sizes, *([10_000] if options.full else [])]
    head = ("ms", "last", "clock", "slope", *COLUMNS, "peak MB", "kB each")
    print(f"{'driver, case, storage, epochs':<34}{'trials':>7}" + "".join(f"{name:>8}" for name in head))
    with ExitStack() as stack:
        places = {storage: place(storage, stack) for storage in options.storage}
        kept = [
            grow(options, sizes, driver, case, storage, epochs, places[storage])
            for driver in (("study", "tune") if options.tune else ("study",))
            for case in options.cases
            for storage in options.storage
            for epochs in options.epochs
        ]
    return 0 if all(kept) or options.quick else 1


def place(storage: str, stack: ExitStack) -> str:
    """What `SWEEPS_STORAGE` says of it. A server is stopped with the `stack`."""
    if storage != "postgresql":
        return storage
    from benchmarks.faults.postgresql import running_server

    return stack.enter_context(running_server()).secret_url


def grow(options: argparse.Namespace, sizes: list[int], driver: str, case: str, storage: str, epochs: int, where: str) -> bool:
    """Sweeps of all sizes; whether the bound is kept."""
    label = f"{driver}, {case}, {storage.partition(':')[0]}, {epochs}"
    sizes = [trials for trials in sizes if trials <= MOST.get(case, trials)]
    found: dict[int, dict[str, Any]] = {}
    for trials in sizes:
        before = max(found, default=None)
        found[trials] = child(options, driver, case, epochs, where, trials)
        row(label, trials, found[trials], None if before is None else (before, found[before]))
    largest, reference = max(found), min((trials for trials in found if trials >= 100), default=min(found))
    grown = found[largest]["last"] / found[reference]["mean"]
    bound = math.inf if case in MOST else options.growth
    kept = grown <= bound
    print(f"  {grown:.2f} times the cost in a sweep of {reference}, at most {bound:g}: {'kept' if kept else 'BROKEN'}")
    if not kept and driver == "study":
        for text, first, last in child(options, driver, case, epochs, where, largest, "--profile")["profile"]:
            print(f"    {first:>8.3f} → {last:>8.3f} ms  {text}")
    return kept


def child(
    options: argparse.Namespace, driver: str, case: str, epochs: int, where: str, trials: int, *more: str
) -> dict[str, Any]:
    """What a process of its own measures."""
    own = ["--trials", str(trials), "--case", case, "--driver", driver, *more]
    passed = ["--epochs", str(epochs), "--concurrent", str(options.concurrent)]
    command = [sys.executable, "-m", "benchmarks.driver_scaling", *own, *passed]
    environment = {**os.environ, "SWEEPS_STORAGE": where}  # not an argument: it may hold a password
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
