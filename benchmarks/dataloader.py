"""Training throughput of the in-memory datamodule against ordinary per-sample DataLoaders, under the same Trainer.

    python -m benchmarks.dataloader            # three minutes on one core
    python -m benchmarks.dataloader --help

Every feed trains the same network on the same samples with the same soft targets (width 1, as `experiment=vimh` has), on
the CPU. The feeds take turns, so that a busy machine slows all of them; the table gives medians over the rounds.

    in memory    VIMHDataModule: whole batches by index from one uint8 tensor; the batch's soft targets from a table
    per sample   a Dataset whose `__getitem__` returns one image as float and, from its stored label bytes, one soft
                 target a head, which the DataLoader collates; read by this process, and by 2 worker processes
    lean         a Dataset whose `__getitem__` does the least it can: one row of tensors that were decoded beforehand
                 (image as float, class indices); the batch's soft targets from a table. What is left of the difference
                 is collation alone, at four times the memory

Where the gain comes from: the in-memory feed does no Python a sample, neither `__getitem__` nor soft targets nor
collation, so it saves a fixed time a sample; the ratio is that saving against the time that the network itself takes a
sample. It is large for networks and batches that cost little a sample, and tends to 1 for large ones. The MLPs are those
of `model=vimh_mlp` (48 wide, with its dropout), and of 20 and 4 units a layer: the narrowest learns little, and stands for a
network that costs next to nothing, so that its row is near what the feeds alone allow. "per sample" makes the soft targets
one at a time, as a Dataset that returns finished targets has to; the part of its ratio that "lean" does not share is that.

The aim: against "per sample" in this process, at least 4 times the throughput on an MLP. It is told for every MLP and batch
size whether that is reached. The bound: it is, by the 4-unit MLP from batch 128 on, as docs/vimh.md says. Exit status 1: the
bound is broken (with `--quick` never).
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lhtx.data import DataSpec, VIMHDataModule
from lhtx.data.dataset import open_dataset
from lhtx.nets import SimpleCNN, SimpleMLP
from lhtx.targets import gaussian_targets

WIDTH = 1.0  # of the soft targets, in class steps
AIM = 4.0  # what an MLP's ratio to "per sample" shall reach
BOUND = ("MLP 4", 128)  # the network, and the batch size from which on it must
MLP_WIDTHS = {"MLP 4": 4, "MLP 20": 20, "MLP 48": 48}
SHIPPED = "MLP 48"  # as model=vimh_mlp


class PerSample(Dataset):
    """One sample at a time from arrays in memory: the image as float, a soft target for every head."""

    def __init__(self, directory: Path, spec: DataSpec, chosen: Tensor) -> None:
        dataset = open_dataset(directory, test=False)
        self.images = torch.from_numpy(dataset.train.images[:].copy())
        ids = [list(dataset.info.parameters).index(name) for name in spec.heads]
        self.stored = dataset.train.labels(ids).tolist()
        self.heads = [(name, head, torch.arange(head.classes)) for name, head in spec.heads.items()]
        self.chosen = chosen.tolist()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> dict:
        sample = self.chosen[position]
        targets = {}
        for (name, head, classes), stored in zip(self.heads, self.stored[sample], strict=True):
            value = head.minimum + stored / 255 * (head.maximum - head.minimum)
            index = min(max(round((value - head.minimum) / head.step), 0), head.classes - 1)
            weights = torch.exp(-((classes - index) ** 2) / (2 * WIDTH**2))
            targets[name] = weights / weights.sum()
        return {"image": self.images[sample].float() / 255, "target": targets}


class Lean(Dataset):
    """One row of tensors at a time; nothing is decoded."""

    def __init__(self, datamodule: VIMHDataModule) -> None:
        everything = datamodule.train_dataloader().dataset[torch.from_numpy(datamodule.split.train)]
        self.images, self.index = everything["image"].float() / 255, everything["index"]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> dict:
        return {"image": self.images[position], "index": self.index[position]}


class Ordinary(LightningDataModule):
    """Any per-sample Dataset behind an ordinary shuffling DataLoader."""

    def __init__(self, dataset: Dataset, batch_size: int, workers: int) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            shuffle=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )


class Task(LightningModule):
    """Cross-entropy with the soft targets of every head, from the batch, or looked up by its class indices in a table."""

    def __init__(self, net: nn.Module, spec: DataSpec) -> None:
        super().__init__()
        self.net = net
        self.tables = {name: gaussian_targets(torch.arange(n), n, WIDTH) for name, n in spec.head_sizes.items()}

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        targets = batch.get("target") or {
            name: table[batch["index"][:, head]] for head, (name, table) in enumerate(self.tables.items())
        }
        return sum(F.cross_entropy(logits, targets[name]) for name, logits in self.net(batch["image"]).items())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)


class EpochTimes(Callback):
    """Seconds of every training epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def epoch_seconds(task: LightningModule, feed: LightningDataModule, epochs: int) -> list[float]:
    """Train for one epoch to warm up and `epochs` more, which are timed: without validation, logger or checkpoints."""
    times = EpochTimes()
    trainer = Trainer(
        max_epochs=epochs + 1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[times],
    )
    trainer.fit(task, datamodule=feed)
    return times.seconds[1:]


def networks(spec: DataSpec) -> dict[str, Callable[[], nn.Module]]:
    """The networks to train, small to large, as functions that make a fresh one."""

    def mlp(width: int, dropout: float) -> Callable[[], nn.Module]:
        return lambda: SimpleMLP(spec.features, width, width, width, heads=spec.head_sizes, dropout=dropout)

    def cnn() -> nn.Module:
        return SimpleCNN(spec.channels, 8, 16, fc_hidden=32, input_size=spec.height, heads=spec.head_sizes)

    mlps = {label: mlp(width, 0.1 if label == SHIPPED else 0.0) for label, width in MLP_WIDTHS.items()}
    return {**mlps, "CNN": cnn}


def parameters(net: nn.Module) -> int:
    """The size of a network."""
    return sum(parameter.numel() for parameter in net.parameters())


def main() -> int:
    """Measure and print one row for each network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3000, help="training samples an epoch (3000)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128, 256, 512], help="(64 128 256 512)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that every feed takes (3)")
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs a turn (2)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--quick", action="store_true", help="few samples, one turn: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.samples, options.batch_sizes, options.rounds, options.epochs = 300, [64], 1, 1
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # its advice on workers is what is measured here
    with tempfile.TemporaryDirectory() as directory:
        kept = measure(Path(directory) / "dataset", options)
    return int(not kept and not options.quick)


def measure(directory: Path, options: argparse.Namespace) -> bool:
    """Generate the data in `directory`, let the feeds take turns, print the table; whether the bound is kept."""
    recipe = {"size": round(options.samples / 0.7), "test_fraction": 0.0}
    datamodule = VIMHDataModule(directory, generate=recipe, in_memory=True)
    datamodule.prepare_data()
    datamodule.setup()
    spec = datamodule.spec
    train = torch.from_numpy(datamodule.split.train)
    sample_by_sample, lean = PerSample(directory, spec, train), Lean(datamodule)
    print(f"{len(train)} samples an epoch, {options.threads} thread(s), median training throughput in samples/s")
    print(f"{'network':>9} {'parameters':>10} {'batch':>5} {'in memory':>10}", end="")
    names = ("per sample", "2 workers", "lean")
    print("".join(f" {name:>10} {'ratio':>6}" for name in names))
    ratios: dict[str, dict[int, float]] = {label: {} for label in MLP_WIDTHS}
    for label, make in networks(spec).items():
        for batch_size in options.batch_sizes:
            datamodule.batch_size = batch_size
            feeds = [
                datamodule,
                Ordinary(sample_by_sample, batch_size, 0),
                Ordinary(sample_by_sample, batch_size, 2),
                Ordinary(lean, batch_size, 0),
            ]
            seconds: list[list[float]] = [[] for _ in feeds]
            for _ in range(options.rounds):
                for feed, measured in zip(feeds, seconds, strict=True):
                    torch.manual_seed(0)
                    measured += epoch_seconds(Task(make(), spec), feed, options.epochs)
            ours, *others = [len(train) / statistics.median(measured) for measured in seconds]
            print(f"{label:>9} {parameters(make()):>10,} {batch_size:>5} {ours:>10,.0f}", end="")
            print("".join(f" {other:>10,.0f} {ours / other:>5.1f}x" for other in others), flush=True)
            if label in ratios:
                ratios[label][batch_size] = ours / others[0]
    print(f"aim: at least {AIM:g}x per sample on an MLP")
    for label, found in ratios.items():
        shipped = " (net of model=vimh_mlp)" if label == SHIPPED else ""
        verdicts = (f"batch {size}: {'reached' if ratio >= AIM else 'missed'} ({ratio:.2f}x)" for size, ratio in found.items())
        print(f"  {label}{shipped}: {', '.join(verdicts)}")
    network, smallest = BOUND
    kept = all(ratio >= AIM for size, ratio in ratios[network].items() if size >= smallest)
    print(f"bound: reached by {network} from batch {smallest} on: {'kept' if kept else 'BROKEN'}")
    return kept


if __name__ == "__main__":
    sys.exit(main())
