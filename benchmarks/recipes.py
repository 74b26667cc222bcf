"""What the shipped recipes reach, against what the README says that they reach.

    python -m benchmarks.recipes [--only vimh …]      # a few minutes on one core

Each recipe is trained as `python -m lhtx.train experiment=NAME trainer=cpu` trains it, on data that needs no download,
and its best checkpoint is tested. A recipe keeps its word where the test accuracy is not below the stated one.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from lhtx.compose import compose, describe
from lhtx.train import train

STATED = {"vimh": ("test/avg_acc", 0.96), "digits_cnn": ("test/acc", 0.97)}
"""Experiment → its metric on the test split, and the value that the README states."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(STATED), default=list(STATED))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one epoch, whatever it reaches: does it run?")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'experiment':<12} {'parameters':>10} {'epochs':>6} {'seconds':>8} {'metric':<13} {'stated':>6} {'reached':>7}")
    with tempfile.TemporaryDirectory() as directory:
        for name in arguments.only:
            overrides = [f"experiment={name}", "trainer=cpu", "logger=none", "trainer.enable_progress_bar=false"]
            overrides += ["trainer.enable_model_summary=false", f"paths.output_dir={Path(directory) / name}"]
            overrides += ["trainer.max_epochs=1"] if arguments.quick else []
            described = describe(overrides)
            start = time.perf_counter()
            metrics = train(compose(overrides))
            metric, stated = STATED[name]
            print(
                f"{name:<12} {described.parameters:>10,} {described.config.trainer.max_epochs:>6} "
                f"{time.perf_counter() - start:>8.1f} {metric:<13} {stated:>6.3f} {metrics[metric]:>7.3f}"
                f"  ({'kept' if metrics[metric] >= stated else 'BROKEN'})",
                flush=True,
            )


if __name__ == "__main__":
    main()
