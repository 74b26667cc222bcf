"""Hydra's Optuna sweeper over the project's own configs, in an environment that has it.

`python -m benchmarks.alternatives.hydra_sweeper FILE basic|joblib`: Hydra's own launcher, which runs one job after another, or
the joblib plugin's, which runs as many at a time as the sweeper asks for and waits for all of them.
"""

import sys

import hydra
from omegaconf import DictConfig

from benchmarks.alternatives.workload import HIGH, LOW, METRIC, SEARCHED, Workload
from lhtx.compose import CONFIGS
from lhtx.train import train


def job(cfg: DictConfig) -> float:
    """One trial."""
    return train(cfg)[METRIC]


def main(file: str, launcher: str) -> None:
    """Run the workload of `file`."""
    workload = Workload.read(file)
    sweep = {
        "hydra/sweeper": "optuna",
        "hydra/launcher": launcher,
        "hydra.sweeper.n_trials": workload.trials,
        "hydra.sweeper.n_jobs": workload.concurrent,
        "hydra.sweeper.direction": "maximize",
        "hydra.sweeper.sampler.seed": 1,
        "hydra.sweep.dir": f"{workload.directory}/multirun",
        "paths.output_dir": "${hydra:runtime.output_dir}",
        SEARCHED: f"tag(log,interval({LOW},{HIGH}))",
    }
    if launcher == "joblib":
        sweep["hydra.launcher.n_jobs"] = workload.concurrent
    sys.argv = [__file__, "--multirun", *workload.trial_overrides(), *(f"{key}={value}" for key, value in sweep.items())]
    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(job)()


if __name__ == "__main__":
    main(*sys.argv[1:])
