"""Ray Tune as its documentation has it: a function, OptunaSearch, and the official Lightning callback.

`python -m benchmarks.alternatives.ray_tune FILE new|reused`: a new actor a trial (Tune's default), or reused ones. The callback
writes no checkpoints of its own, as the training does; everything else is left at Tune's defaults.
"""

import sys
from typing import Any

import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from benchmarks.alternatives.workload import HIGH, LOW, METRIC, Workload


def train(config: dict[str, Any], file: str) -> None:
    """One trial."""
    from ray.tune.integration.pytorch_lightning import TuneReportCheckpointCallback

    Workload.read(file).train(config["lr"], [TuneReportCheckpointCallback({"objective": METRIC}, save_checkpoints=False)])


def main(file: str, reuse: bool) -> None:
    """Run the workload of `file`."""
    workload = Workload.read(file)
    ray.init(num_cpus=workload.concurrent)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, file=file), {"cpu": 1}),
        param_space={"lr": tune.loguniform(LOW, HIGH)},
        tune_config=tune.TuneConfig(
            metric="objective",
            mode="max",
            search_alg=OptunaSearch(seed=1),
            num_samples=workload.trials,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(storage_path=f"{workload.directory}/tune"),
    )
    tuner.fit()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], {"new": False, "reused": True}[sys.argv[2]])
