"""The floor: a pool of processes that import once and train trial after trial, and Optuna in the process that feeds them.

Nothing is reported, recorded, contained or reset. `python -m benchmarks.alternatives.warm_pool FILE`.
"""

import multiprocessing
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import optuna

from benchmarks.alternatives.workload import HIGH, LOW, SEARCHED, Workload


def main(file: str) -> None:
    """Run the workload of `file`."""
    workload = Workload.read(file)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    running: dict[Future[float], optuna.Trial] = {}
    left = workload.trials
    with ProcessPoolExecutor(workload.concurrent, multiprocessing.get_context("spawn")) as pool:
        while left or running:
            while left and len(running) < workload.concurrent:
                trial = study.ask()
                running[pool.submit(workload.train, trial.suggest_float(SEARCHED, LOW, HIGH, log=True))] = trial
                left -= 1
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                study.tell(running.pop(done), done.result())


if __name__ == "__main__":
    main(sys.argv[1])
