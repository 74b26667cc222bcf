"""What is left of a plain torch loop's speed when the same network is trained by `lhtx` with everything on.

    python -m benchmarks.training_step [--epochs 16] [--batch-size 64] [--threads 1] [--only vimh_cnn …]

Every architecture trains on the same images, 32x32x1 with two heads of 24 classes and soft targets, on the CPU. An epoch
of the Trainer takes turns with an epoch of a loop written out in torch, so that both see the same machine at the same
time; medians of the epochs are compared, in processor time, which a busy machine does not stretch (with one thread it is
the time that a quiet one takes).

    bare     batches by index from one tensor on the device; forward, soft-target cross-entropy of both heads, backward,
             clipping, one fused AdamW step; nothing is measured, logged or written
    Trainer  `experiment=vimh`: the datamodule, gradient statistics at every step, metrics of every head, TensorBoard,
             two checkpoints an epoch, and the live progress bar, drawn in a pseudo-terminal; what happens between two epochs is
             counted, validation is not (drawing its bar is a part of it)

The bounds: the Trainer keeps at least 0.75 of the bare loop's samples a second on a CNN of about 64,000 parameters, and
0.6 on the MLP. Exit status 1: one is broken (with `--quick`, which shows nothing of speed, never).
"""

import argparse
import contextlib
import logging
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping

import rich
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lhtx.compose import build_datamodule, build_task, compose, configure
from lhtx.extras import quieten
from lhtx.runs import build_trainer
from lhtx.targets import gaussian_targets

SAMPLES = 16_000  # seven tenths of them train
WARM_UP = 2  # epochs that are not counted
BOUNDS = {"vimh_cnn": 0.75, "vimh_mlp": 0.6}
CNN = [f"model.net.{size}" for size in ("conv1_channels=8", "conv2_channels=24", "fc_hidden=128")]  # 64,000 parameters
ARCHITECTURES: Mapping[str, list[str]] = {
    "vimh_mlp": [],
    "vimh_sdn": [],
    "vimh_cnn": CNN,
    "vimh_convnext": [],
    "vimh_efficientnet": [],
    "vimh_vit": [],
}


class Bare:
    """The loop written out: one epoch at a time over the datamodule's own tensors, with a network of its own."""

    def __init__(self, task: LightningModule, cfg, columns: Mapping[str, Tensor], order: Tensor) -> None:
        self.net = task.net
        self.format = torch.channels_last if cfg.model.channels_last else torch.contiguous_format
        self.columns, self.order = columns, order
        self.batch_size, self.width = cfg.data.batch_size, cfg.data.target_width
        self.heads = [(head.name, head.spec.classes) for head in task.heads]
        settings = cfg.model.optimizer
        self.clip = cfg.trainer.gradient_clip_val
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.tables = [gaussian_targets(torch.arange(classes), classes, self.width) for _, classes in self.heads]
        self.generator = torch.Generator().manual_seed(0)

    def epoch(self) -> None:
        self.net.train()
        shuffled = self.order[torch.randperm(len(self.order), generator=self.generator)]
        for chosen in shuffled.split(self.batch_size):
            image = self.columns["image"][chosen].float().div_(255).sub_(0.5).mul_(4.0)
            index = self.columns["index"][chosen]
            outputs = self.net(image.contiguous(memory_format=self.format))
            losses = [
                F.cross_entropy(outputs[name], table[index[:, column]])
                for column, ((name, _), table) in enumerate(zip(self.heads, self.tables, strict=True))
            ]
            self.optimizer.zero_grad()
            sum(losses).backward()
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
            self.optimizer.step()


class TakeTurns(Checkpoint):
    """After every epoch of the Trainer, one of the bare loop. A Checkpoint, as those come last of all callbacks."""

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        self.seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
        self.validation = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.start = time.process_time()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_start = time.process_time()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation += time.process_time() - self.validation_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        taken = time.process_time() - self.start - self.validation
        start = time.process_time()
        self.bare.epoch()
        own = time.process_time() - start
        if trainer.current_epoch >= WARM_UP:
            self.seconds["trainer"].append(taken)
            self.seconds["bare"].append(own)
        self.validation, self.start = 0.0, time.process_time()


def measure(name: str, samples: int, arguments: argparse.Namespace, directory: str) -> tuple[int, float, float]:
    """Parameters, and samples a second of the bare loop and of the Trainer."""
    cfg = configure(
        compose(
            [
                *("experiment=vimh", f"model={name}", "trainer=cpu", "threads=null", *ARCHITECTURES[name]),
                f"paths.data_dir={directory}/data",
                f"data.generate.size={samples}",
                f"paths.output_dir={directory}/{name}",
                f"data.batch_size={arguments.batch_size}",
                "callbacks.progress_bar.display=rich",
                *("trainer.num_sanity_val_steps=0", f"trainer.max_epochs={arguments.epochs + WARM_UP}"),
            ]
        )
    )
    quieten(cfg)
    datamodule = build_datamodule(cfg)
    datamodule.setup()
    order = torch.from_numpy(datamodule.split.train)
    columns = datamodule.train_dataloader().dataset.columns
    turns = TakeTurns(Bare(build_task(cfg), cfg, columns, order))
    trainer = build_trainer(cfg, [turns])
    trainer.fit(build_task(cfg), datamodule=datamodule)
    parameters = sum(parameter.numel() for parameter in turns.bare.net.parameters())
    bare, full = (len(order) / statistics.median(turns.seconds[who]) for who in ("bare", "trainer"))
    return parameters, bare, full


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Standard output is a terminal of its own while the block runs: what is drawn there is written, read and thrown away.

    The reader is a process of its own, so that its work counts for nobody.
    """
    reading, writing = pty.openpty()
    reader = subprocess.Popen(["cat"], stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(reading)
    try:
        with open(writing, "w", encoding="utf-8") as screen, contextlib.redirect_stdout(screen):
            rich.reconfigure(file=screen, force_terminal=True, _environ={"TERM": "xterm-256color"}, width=120, height=40)
            yield
    finally:
        rich.reconfigure()
        reader.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    parser.add_argument("--quick", action="store_true", help="one counted epoch of few samples: does it run?")
    arguments = parser.parse_args()
    samples = SAMPLES
    if arguments.quick:
        arguments.epochs, samples = 1, 600
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"{'model':<18} {'parameters':>10} {'bare':>13} {'Trainer':>13} {'share':>6}")
    broken = False
    with tempfile.TemporaryDirectory() as directory:
        for name in arguments.only:
            with terminal():
                parameters, bare, full = measure(name, samples, arguments, directory)
            bound = BOUNDS.get(name)
            kept = bound is None or full / bare >= bound
            broken |= not kept
            verdict = f"  (at least {bound}: {'kept' if kept else 'BROKEN'})" if bound else ""
            print(f"{name:<18} {parameters:>10,} {bare:>9,.0f} s⁻¹ {full:>9,.0f} s⁻¹ {full / bare:>6.2f}{verdict}", flush=True)
    return int(broken and not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
