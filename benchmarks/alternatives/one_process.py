"""Plain Optuna: `study.optimize` in one process, one trial after another.

`python -m benchmarks.alternatives.one_process FILE`.
"""

import sys

import optuna

from benchmarks.alternatives.workload import HIGH, LOW, SEARCHED, Workload, reporting


def main(file: str) -> None:
    """Run the workload of `file`."""
    workload = Workload.read(file)

    def objective(trial: optuna.Trial) -> float:
        epoch = iter(range(1, sys.maxsize))
        report = reporting(lambda value: trial.report(value, next(epoch)))
        return workload.train(trial.suggest_float(SEARCHED, LOW, HIGH, log=True), [report])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    study.optimize(objective, n_trials=workload.trials)


if __name__ == "__main__":
    main(sys.argv[1])
