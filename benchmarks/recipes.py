"""What the shipped recipes and the digits search space reach, against what is said of them.

    python -m benchmarks.recipes [--only vimh …]      # some minutes on two cores

Each recipe is trained as `python -m lhtx.train experiment=NAME trainer=cpu` trains it, on data that needs no download,
and its best checkpoint is tested. The search space `digits` is run as `python -m sweeps run digits`, on two CPUs, and the
test accuracy is that of its best trial by the validation split. Exit status 1: a test accuracy is below the stated one (with
`--quick`, which trains next to nothing, never).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from analysis.load import load
from lhtx.compose import compose, describe
from lhtx.evaluate import compose_evaluation, evaluate
from lhtx.train import train
from sweeps.ledger import Ledger

ROOT = Path(__file__).resolve().parents[1]
SWEEP = "sweep digits"
STATED = {"vimh": ("test/avg_acc", 0.96), "digits_cnn": ("test/acc", 0.97), SWEEP: ("test/acc", 0.97)}
"""Experiment, or the sweep → its metric on the test split, and the least that it reaches."""


@dataclass(frozen=True)
class Reached:
    """What came of a recipe: the network's parameters, the epochs trained, and the metrics of its best checkpoint."""

    parameters: int
    epochs: int
    metrics: dict[str, float]


def recipe(name: str, directory: Path, quick: bool) -> Reached:
    """Trains and tests an experiment."""
    overrides = [f"experiment={name}", "trainer=cpu", "logger=none", "trainer.enable_progress_bar=false"]
    overrides += ["trainer.enable_model_summary=false", f"paths.output_dir={directory / name}"]
    overrides += ["trainer.max_epochs=1"] if quick else []
    described = describe(overrides)
    return Reached(described.parameters, described.config.trainer.max_epochs, train(compose(overrides)))


def sweep(directory: Path, quick: bool) -> Reached:
    """Runs the search space `digits` and reads its best trial among those that trained to their end.

    Raises:
        RuntimeError: the sweep failed, with what it said.
    """
    text = (ROOT / "search_spaces" / "digits.yaml").read_text()
    if quick:
        for long, short in (
            ("trials: 24", "trials: 2"),
            ("max_epochs=18", "max_epochs=2"),
            ("grace_epochs: 2", "grace_epochs: 1"),
        ):
            text = text.replace(long, short)
    (directory / "digits.yaml").write_text(text)
    command = [sys.executable, "-m", "sweeps", "run", str(directory / "digits.yaml"), "--runs", str(directory / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the sweep ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    best = load("digits", directory / "runs").complete.iloc[0]
    # One that the guard ended as spent has not been tested by its own run.
    checkpoint = Ledger("digits", directory / "runs").trial(int(best["number"])).checkpoints / "best.ckpt"
    cfg = compose_evaluation([f"ckpt_path='{checkpoint}'", f"paths.output_dir='{directory / 'test'}'", "trainer=cpu"])
    return Reached(int(best["parameters"]), int(best["epochs"]), evaluate(cfg))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(STATED), default=list(STATED))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="an epoch or two, whatever they reach: does it run?")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    broken = False
    print(f"{'recipe':<12} {'parameters':>10} {'epochs':>6} {'seconds':>8} {'metric':<13} {'stated':>6} {'reached':>7}")
    with tempfile.TemporaryDirectory() as directory:
        for name in arguments.only:
            start = time.perf_counter()
            place = Path(directory)
            reached = sweep(place, arguments.quick) if name == SWEEP else recipe(name, place, arguments.quick)
            metric, stated = STATED[name]
            kept = reached.metrics[metric] >= stated
            broken |= not kept
            print(
                f"{name:<12} {reached.parameters:>10,} {reached.epochs:>6} {time.perf_counter() - start:>8.1f} "
                f"{metric:<13} {stated:>6.3f} {reached.metrics[metric]:>7.3f}  ({'kept' if kept else 'BROKEN'})",
                flush=True,
            )
    return int(broken and not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
