"""Syne Tune's local backend: a new Python process a trial, which prints what it reports.

`python benchmarks/alternatives/syne_tune_local.py --workload FILE`, in an environment that has Syne Tune. With `--lr` as well,
this file is the trial that the backend starts. The tuner looks for news every 0.1 s, where its default is 5 s.
"""

import argparse
import sys


def trial(file: str, lr: float) -> None:
    """One trial."""
    from syne_tune import Reporter

    from benchmarks.alternatives.workload import Workload, reporting

    tell = Reporter()
    epochs = iter(range(1, sys.maxsize))
    Workload.read(file).train(lr, [reporting(lambda value: tell(epoch=next(epochs), objective=value))])


def tune(file: str) -> None:
    """Run the workload of `file`."""
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import loguniform
    from syne_tune.optimizer.baselines import RandomSearch

    from benchmarks.alternatives.workload import HIGH, LOW, Workload

    workload = Workload.read(file)
    space = {"lr": loguniform(LOW, HIGH), "workload": file}
    Tuner(
        trial_backend=LocalBackend(entry_point=__file__),
        scheduler=RandomSearch(space, metrics=["objective"], do_minimize=False, random_seed=1),
        stop_criterion=StoppingCriterion(max_num_trials_finished=workload.trials, max_num_trials_started=workload.trials),
        n_workers=workload.concurrent,
        sleep_time=0.1,
    ).run()


def main() -> None:
    """The tuner or, with `--lr`, one trial of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", required=True)
    parser.add_argument("--lr", type=float)
    arguments, _ = parser.parse_known_args()  # the backend adds some of its own
    if arguments.lr is None:
        tune(arguments.workload)
    else:
        trial(arguments.workload, arguments.lr)


if __name__ == "__main__":
    main()
