"""How much faster networks train as one (`lhtx.fused`) than one after the other (`lhtx.train`), in the same process.

    python -m benchmarks.fused [--epochs 6] [--repeats 3] [--device cpu] [--only "MLP 11k" …] [--members 1 8 …]

Either way an epoch holds the whole work of a run, with one thread: batches, forward and backward pass, optimizer step,
gradient statistics, metrics of both splits, a report, and two checkpoints written. What a run costs before its first epoch and
after its last is not counted.

A network by itself takes turns with a group of K. `ratio` is K times the median of its epochs over the median of the group's,
in processor time (on a GPU in time on the clock); the spread is the lowest and the highest of the repeats.

The bounds are for one thread of a CPU, see `BOUNDS`. Exit status 1: one is broken (with `--quick`, which shows nothing of
speed, and on other devices, never).
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig

from lhtx.compose import compose
from lhtx.epoch_report import EpochReport
from lhtx.fused import FusedTrainer
from lhtx.train import train

SAMPLES = 4000  # of the generated dataset; seven tenths of them train
CNN = [f"model.net.{size}" for size in ("conv1_channels=8", "conv2_channels=16", "fc_hidden=32", "dropout=0.0")]
NETWORKS = {
    "MLP 11k": ["data=digits", "model=digits_mlp", *(f"model.net.lin{layer}_size=58" for layer in (1, 2, 3))],
    "MLP 64k": ["model=vimh_mlp", *(f"model.net.lin{layer}_size=54" for layer in (1, 2, 3)), "model.net.dropout=0.0"],
    "CNN 10k": ["data=digits", "model=digits_cnn", *CNN],
}
BOUNDS = {("MLP 11k", 8): 3.1, ("MLP 11k", 64): 4.6, ("MLP 64k", 8): 1.2, ("MLP 64k", 64): 1.2}
"""Network and members → the least ratio."""
MEMBERS = (1, 8, 16, 64)


class Epochs(Checkpoint):
    """When each epoch's report was due; in a run of its own a Checkpoint, as those are called last of all callbacks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.moments: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.moments.append(self._clock())

    def report(self, reports: Mapping[int, EpochReport]) -> Collection[int]:
        self.parameters = next(iter(reports.values())).parameters
        self.moments.append(self._clock())
        return ()

    @property
    def seconds(self) -> float:
        return statistics.median(later - earlier for earlier, later in itertools.pairwise(self.moments))


def config(overrides: Sequence[str], seed: int, epochs: int, samples: int, device: str, directory: Path) -> DictConfig:
    """One member's; its files lie in `directory`, under its seed."""
    return compose(
        [
            *(f"paths.data_dir={directory / 'data'}", f"paths.log_dir={directory / 'logs'}"),
            f"paths.output_dir={directory / str(seed)}",
            *overrides,
            *([] if "data=digits" in overrides else [f"data.generate.size={samples}"]),
            *(f"trainer.accelerator={device}", "logger=none", "threads=1", "trainer.deterministic=false", "test=false"),
            *("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", f"trainer.max_epochs={epochs + 1}"),
            *(f"seed={seed}", "data.seed=1", f"model.optimizer.lr={1e-3 * (1 + seed % 7)}"),
            f"data.target_width={0.5 + 0.1 * (seed % 5)}",
        ]
    )


@dataclass(frozen=True)
class Measured:
    """Parameters of a network; milliseconds of an epoch by itself and of a group's; and the ratio of each repeat."""

    parameters: int
    alone: float
    group: float
    ratios: list[float]


def measure(name: str, members: int, arguments: argparse.Namespace) -> Measured:
    """`members` networks as one against one by itself, in turns."""
    overrides, samples = NETWORKS[name], 400 if arguments.quick else SAMPLES
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    alone, group = [], []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(arguments.repeats):
            configs = [
                config(overrides, seed, arguments.epochs, samples, arguments.device, Path(directory)) for seed in range(members)
            ]
            own, together = Epochs(clock), Epochs(clock)
            train(configs[0], [own])
            FusedTrainer(configs, together.report).fit()
            alone.append(own.seconds)
            group.append(together.seconds)
    ratios = [members * own / together for own, together in zip(alone, group, strict=True)]
    return Measured(together.parameters, 1e3 * statistics.median(alone), 1e3 * statistics.median(group), ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--members", nargs="*", type=int, default=MEMBERS)
    parser.add_argument("--quick", action="store_true", help="one counted epoch of two members: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs, arguments.repeats, arguments.members = 1, 1, [2]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"{'network':<8} {'parameters':>10} {'members':>7} {'one alone':>12} {'as one':>12} {'ratio':>6}  spread")
    broken = False
    for name in arguments.only:
        for members in arguments.members:
            found = measure(name, members, arguments)
            ratio, bound = statistics.median(found.ratios), BOUNDS.get((name, members))
            kept = bound is None or ratio >= bound
            broken |= not kept
            verdict = f"  (at least {bound}: {'kept' if kept else 'BROKEN'})" if bound and arguments.device == "cpu" else ""
            times = f"{found.alone:>9,.1f} ms {found.group:>9,.1f} ms"
            spread = f"{min(found.ratios):.2f} to {max(found.ratios):.2f}"
            print(f"{name:<8} {found.parameters:>10,} {members:>7} {times} {ratio:>6.2f}  {spread}{verdict}", flush=True)
    return int(broken and not arguments.quick and arguments.device == "cpu")


if __name__ == "__main__":
    sys.exit(main())
