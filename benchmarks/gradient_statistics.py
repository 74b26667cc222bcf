"""What gradient statistics cost: the share that the callback adds to a training epoch, at its default settings.

One training runs with the callback in every other epoch, so that both halves see the same machine at the same time; the
medians of the epochs are compared: processor time on the CPU, which a busy machine does not stretch, wall time elsewhere.
The bound is 5 % of a step on the CNN. The MLP, whose step is far shorter, shows what a share consists of: most of it is
writing an epoch's values to TensorBoard. Exit status 1: the bound is broken (with `--quick` never).

    python -m benchmarks.gradient_statistics [--epochs 80] [--batch-size 64] [--accelerator cpu] [--threads 1]
"""

import argparse
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lhtx.callbacks import GradientStatistics
from lhtx.compose import build_datamodule, build_task, compose, configure, instantiate
from lhtx.extras import quieten

BOUND = 0.05
WARM_UP = 4  # epochs that are not counted
NETWORKS = {
    "CNN, 28x28 pixels": ["model=vimh_cnn", *(f"model.net.{size}" for size in ("conv1_channels=8", "conv2_channels=20"))],
    "MLP, 28x28 pixels": ["model=vimh_mlp"],
}


class EveryOther(Callback):
    """Hands every other epoch's hooks on to `inner`, and takes the time of each epoch, `inner`'s work included."""

    def __init__(self, inner: GradientStatistics) -> None:
        self.inner = inner
        self.clock = time.perf_counter
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.steps = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.active = trainer.current_epoch % 2 == 1
        self.clock = time.process_time if pl_module.device.type == "cpu" else time.perf_counter
        _wait(pl_module)
        self.start = self.clock()
        if self.active:
            self.inner.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.active:
            self.inner.on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self.active:
            self.inner.on_before_optimizer_step(trainer, pl_module, optimizer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.active:
            self.inner.on_train_epoch_end(trainer, pl_module)
        _wait(pl_module)
        self.steps = trainer.num_training_batches
        if trainer.current_epoch >= WARM_UP:
            self.seconds[self.active].append(self.clock() - self.start)


def _wait(module: LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)


def measure(network: list[str], arguments: argparse.Namespace, directory: str) -> tuple[int, int, float, float]:
    """Parameters, steps an epoch, and the median seconds of an epoch with and without the statistics."""
    cfg = configure(
        compose(
            [
                *network,
                f"data.data_dir={directory}/vimh-28x28x1_8000Hz_1p0s_4000dss_simple_2p",
                *("data.generate.size=4000", "+data.generate.height=28", "+data.generate.width=28"),
                f"data.batch_size={arguments.batch_size}",
                f"paths.output_dir={directory}/run",
                *("trainer.limit_val_batches=0", "trainer.enable_progress_bar=false", "trainer.enable_checkpointing=false"),
                *(f"trainer.max_epochs={arguments.epochs}", f"trainer.accelerator={arguments.accelerator}"),
                "trainer.enable_model_summary=false",
            ]
        )
    )
    quieten(cfg)
    task = build_task(cfg)
    timed = EveryOther(instantiate(cfg, "callbacks.gradient_statistics"))
    trainer = instantiate(cfg, "trainer", callbacks=[timed], logger=[instantiate(cfg, "logger.tensorboard")])
    trainer.fit(task, datamodule=build_datamodule(cfg))
    parameters = sum(parameter.numel() for parameter in task.net.parameters())
    return parameters, timed.steps, statistics.median(timed.seconds[True]), statistics.median(timed.seconds[False])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few epochs: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs = WARM_UP + 2
    torch.set_num_threads(arguments.threads)
    print(f"{'network':<20} {'parameters':>10} {'step without':>13} {'step with':>11} {'share':>7}")
    broken = False
    with tempfile.TemporaryDirectory() as directory:
        for name, network in NETWORKS.items():
            parameters, steps, with_, without = measure(network, arguments, directory)
            share = with_ / without - 1
            kept = share <= BOUND or "CNN" not in name
            broken |= not kept
            verdict = f"  (bound {BOUND:.0%}: {'kept' if kept else 'BROKEN'})" if "CNN" in name else ""
            times = f"{without / steps * 1e3:>10.3f} ms {with_ / steps * 1e3:>8.3f} ms"
            print(f"{name:<20} {parameters:>10,} {times} {share:>7.1%}{verdict}", flush=True)
    return int(broken and not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
