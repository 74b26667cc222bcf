"""Two real processes on the CPU give the numbers of one: metrics, weights, gradient statistics, logged steps."""

import csv
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lhtx.compose import compose
from lhtx.data.batches import BatchOrder
from lhtx.tasks.heads import parse_heads
from lhtx.tasks.metrics import SplitMetrics
from lhtx.train import train

HEADS = {
    "note": {"classes": 12, "minimum": 48.0, "maximum": 59.0, "step": 1.0},
    "decay": {"classes": 256, "minimum": -1.5, "maximum": 1.0, "step": 0.0},
}


def measured(order: BatchOrder) -> dict[str, float]:
    """The metrics of seeded predictions for the samples of `order`."""
    rng = np.random.default_rng(0)
    guess, position = torch.tensor(rng.integers(0, 12, 101)), torch.tensor(rng.random(101) * 255).float()
    index, unit = torch.tensor(rng.integers(0, 12, (101, 2))), torch.tensor(rng.random((101, 2))).float()
    loss = torch.tensor(rng.random(101))
    weight = torch.tensor(rng.choice([1.0, 20.0], 101))
    metrics = SplitMetrics(parse_heads(HEADS), ["argmax", "expectation"], weighted=1)
    for rows in order:
        sums = (loss[rows] * weight[rows]).sum(), weight[rows].sum()
        weighted = [(sums[0] / sums[1], sums[1])]
        metrics.accumulate(loss[rows].mean(), [guess[rows], position[rows]], index[rows], unit[rows], weighted)
    return metrics.compute()


def process(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory / 'meet'}", rank=rank, world_size=2)
    values = measured(BatchOrder(torch.arange(101), 16, rank=rank, world_size=2))
    (directory / f"{rank}.json").write_text(json.dumps(values))
    torch.distributed.destroy_process_group()


def test_the_metrics_of_two_processes_are_those_of_one(tmp_path):
    context = multiprocessing.get_context("fork")  # quick: torch is imported already
    workers = [context.Process(target=process, args=(rank, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=240)
    assert [worker.exitcode for worker in workers] == [0, 0]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert results[0] == results[1]
    assert results[0] == pytest.approx(measured(BatchOrder(torch.arange(101), 16)), rel=1e-5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ddp")


def overrides(directory: Path, name: str, *more: str) -> list[str]:
    """A network without dropout and batch normalisation, which alone would make two processes differ from one."""
    return [
        *(f"paths.data_dir={directory / 'data'}", f"paths.output_dir={directory / name}", "data.generate.size=250"),
        *("model=vimh_mlp", "model.net.dropout=0", "model.optimizer.fused=false", "data.target_width=1.0"),
        *("data.train_val_test_split=[0.6,0.265,0.135]", "trainer.max_epochs=2", "trainer.log_every_n_steps=2", "threads=1"),
        *("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", *more),
    ]


@pytest.fixture(scope="module")
def one(directory) -> dict[str, float]:
    """One process with batches of 32."""
    return train(compose(overrides(directory, "one", "trainer=cpu", "data.batch_size=32", "logger=csv")))


@pytest.fixture(scope="module")
def two(directory, one) -> dict[str, float]:
    """Two processes with batches of 16 each, from the command line; the dataset is there."""
    command = [sys.executable, "-m", "lhtx.train", *overrides(directory, "two", "trainer=ddp_sim", "data.batch_size=16")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*command, "logger=csv"], env=environment, cwd=directory, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test/avg_acc") == 1  # one process alone prints
    return json.loads((directory / "two" / "metrics.json").read_text())


@pytest.mark.slow
def test_a_run_of_two_processes_is_that_of_one_with_their_batches_together(one, two, directory):
    assert two.keys() == one.keys()
    # 120 samples to train on, 53 to validate, 27 to test: the processes measure unequal parts.
    approximate = pytest.approx({name: value for name, value in one.items() if np.isfinite(value)}, rel=1e-5, abs=1e-6)
    assert {name: value for name, value in two.items() if value is not None} == approximate
    files = [directory / run / "checkpoints" / "last.ckpt" for run in ("one", "two")]
    states = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_the_steps_of_two_processes_are_logged_once_and_with_the_loss_of_both(one, two, directory):
    losses = []
    for run in ("one", "two"):
        (file,) = (directory / run).rglob("metrics.csv")
        with open(file, newline="") as opened:
            rows = [row for row in csv.DictReader(opened) if row.get("train/loss_step")]
        losses.append({int(row["step"]): float(row["train/loss_step"]) for row in rows})
        assert len(rows) == len(losses[-1])
    assert sorted(losses[0]) == [0, 2, 4, 6]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
def test_two_processes_log_the_test_where_the_training_ended_and_again_when_it_goes_on(one, two, directory):
    def tests(run: str) -> list[tuple[str, str]]:
        (file,) = (directory / run).rglob("metrics.csv")
        with open(file, newline="") as opened:
            return [(row["step"], row["epoch"]) for row in csv.DictReader(opened) if row.get("test/loss")]

    assert tests("one") == tests("two") == [("8", "2")]
    shutil.copytree(directory / "two", directory / "further")
    last = directory / "further" / "checkpoints" / "last.ckpt"
    more = ("trainer=ddp_sim", "data.batch_size=16", "logger=csv", "trainer.max_epochs=3", f"ckpt_path={last}")
    command = [sys.executable, "-m", "lhtx.train", *overrides(directory, "further", *more)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert tests("further") == [("12", "3")]


@pytest.mark.slow
def test_two_processes_measure_a_checkpoint_as_one_does(one, directory):
    best = directory / "one" / "checkpoints" / "best.ckpt"
    more = ("trainer=ddp_sim", "data.batch_size=16", "logger=none", f"ckpt_path={best}", "train=false")
    command = [sys.executable, "-m", "lhtx.train", *overrides(directory, "measured", *more)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    values = json.loads((directory / "measured" / "metrics.json").read_text())
    assert values == pytest.approx({name: one[name] for name in one if name.startswith("test/")}, rel=1e-5)
