"""What the channels-last memory format makes of a training step, for every network that has a config and convolutions.

Each network is trained on one random batch in both formats, step by step in turns, so that both see the same machine at
the same time. The fastest step of each is compared, on the CPU in processor time (of all threads together): whatever else a
busy machine does only makes a step longer. A step is the images brought into the format, forward, cross-entropy of every
head, backward and one step of the config's optimizer.

    python -m benchmarks.memory_format [--steps 20] [--batch-size 64] [--device cpu] [--threads 1] [--only vimh_cnn …]
"""

import argparse
import fnmatch
import math
import time

import hydra
import torch
import torch.nn.functional as F
from lightning import LightningModule
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lhtx.compose import CONFIGS, instantiate

WARM_UP = 2  # steps that are not counted
FASTER = 1.1  # ratio from which a format counts as faster: a busy machine blurs smaller ones
DENSE = ("SimpleMLP", "SimpleDenseNet")
SHAPES = {
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "digits": (1, 8, 8),
    "vimh": (1, 32, 32),
}
"""Dataset, the first word of a model's name → images (C, H, W)."""
HEADS = {
    "vimh": {"note_number": 24, "log10_decay_time": 24},
    "mnist_multihead": {"digit": 10, "thickness": 5, "smoothness": 3},
    "cifar10_multihead": {"class": 10, "domain": 2, "mobility": 3, "size": 3},
    "cifar100": {"class": 100},
}
"""Beginning of a model's name → heads and their classes; ten classes for all others."""


def config(model: str) -> DictConfig:
    """The config of a model with the description of a dataset that fits its name."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose(f"model/{model}")
    channels, height, width = SHAPES[model.split("_")[0]]
    heads = next((heads for start, heads in HEADS.items() if model.startswith(start)), {"class": 10})
    dataset = {
        "name": model,
        **{"channels": channels, "height": height, "width": width, "features": channels * height * width},
        **{"auxiliary_size": 0, "target_width": 0.0, "head_sizes": heads},
        "heads": {
            name: {"classes": classes, "minimum": 0.0, "maximum": classes - 1.0, "step": 1.0} for name, classes in heads.items()
        },
    }
    return OmegaConf.merge(OmegaConf.to_container(cfg), {"dataset": dataset})


class Step:
    """One training step of a config's task on one batch, in one of the two formats."""

    def __init__(self, cfg: DictConfig, image: Tensor, channels_last: bool) -> None:
        self.task: LightningModule = instantiate(cfg, "model", channels_last=channels_last).to(image.device)
        self.optimizer = self.task.configure_optimizers()
        self.batch = {"image": image}
        sizes = cfg.dataset.head_sizes
        self.targets = {name: torch.randint(classes, (len(image),), device=image.device) for name, classes in sizes.items()}

    def __call__(self) -> float:
        """Seconds that the step took."""
        start = _now(self.batch["image"])
        self.optimizer.zero_grad()
        outputs = self.task(self.batch)
        sum(F.cross_entropy(outputs[name], target) for name, target in self.targets.items()).backward()
        self.optimizer.step()
        return _now(self.batch["image"]) - start


def _now(tensor: Tensor) -> float:
    if tensor.device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(tensor.device)
    return time.perf_counter()


def measure(model: str, arguments: argparse.Namespace) -> tuple[int, float, float]:
    """Parameters, and the seconds of the fastest step in the contiguous and in the channels-last format."""
    cfg = config(model)
    torch.manual_seed(0)
    image = torch.rand(arguments.batch_size, cfg.dataset.channels, cfg.dataset.height, cfg.dataset.width)
    steps = [Step(cfg, image.to(arguments.device), channels_last) for channels_last in (False, True)]
    fastest = [math.inf, math.inf]
    for turn in range(WARM_UP + arguments.steps):
        for which, step in enumerate(steps):
            seconds = step()
            if turn >= WARM_UP:
                fastest[which] = min(fastest[which], seconds)
    return sum(parameter.numel() for parameter in steps[0].task.net.parameters()), *fastest


def convolutional() -> list[str]:
    """The models whose network has convolutions."""
    models = [path.stem for path in sorted((CONFIGS / "model").glob("*.yaml")) if not path.stem.startswith("_")]
    return [model for model in models if not config(model).model.net._target_.endswith(DENSE)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=["*"], help="models, with * for any letters")
    parser.add_argument("--quick", action="store_true", help="one step of small batches of small models: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.batch_size, arguments.only = 1, 4, ["digits_*"]
    torch.set_num_threads(arguments.threads)
    models = [model for model in convolutional() if any(fnmatch.fnmatch(model, pattern) for pattern in arguments.only)]
    print(f"{'model':<26} {'parameters':>10} {'contiguous':>13} {'channels last':>14} {'ratio':>6}")
    for model in models:
        parameters, contiguous, channels_last = measure(model, arguments)
        ratio = contiguous / channels_last
        times = f"{contiguous * 1e3:>10.2f} ms {channels_last * 1e3:>11.2f} ms"
        chosen = config(model).model.channels_last
        verdict = "" if (ratio >= 1) == chosen or 1 / FASTER < ratio < FASTER else f"  (its config has channels_last: {chosen})"
        print(f"{model:<26} {parameters:>10,} {times} {ratio:>6.2f}{verdict}", flush=True)


if __name__ == "__main__":
    main()
