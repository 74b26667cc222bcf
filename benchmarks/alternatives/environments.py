"""Environments of their own for the alternatives that cannot share the project's: made once, by pip, under a directory.

Each holds what training imports, in the versions of `requirements.lock`, and the alternative itself.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAINING = ("torch", "lightning", "torchmetrics", "hydra-core", "tensorboard", "numpy", "rich", "filelock", "pillow")


class NotInstallable(RuntimeError):
    """pip could not make an environment; the message ends with its own."""


@dataclass(frozen=True)
class Environment:
    """What is installed beside the training's packages: `packages` with their dependencies, `bare` without."""

    name: str
    packages: Sequence[str]
    bare: Sequence[str] = ()

    def python(self, cache: Path) -> Path:
        """The environment's interpreter; it is made under `cache` if it is not there.

        Raises:
            NotInstallable: pip could not install something.
        """
        locked = _locked()
        wanted = [*(f"{name}=={locked[name]}" for name in TRAINING), *self.packages]
        digest = hashlib.sha256(repr((wanted, self.bare, sys.version)).encode()).hexdigest()[:12]
        directory = cache.resolve() / f"{self.name}-{digest}"
        python, stamp = directory / "bin" / "python", directory / ".complete"
        if not stamp.exists():
            print(f"making {directory} …", file=sys.stderr, flush=True)
            _call([sys.executable, "-m", "venv", str(directory)])
            _call([str(python), "-m", "pip", "install", "--quiet", *wanted])
            if self.bare:
                _call([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *self.bare])
            stamp.touch()
        return python


HYDRA = Environment("hydra-optuna-sweeper", ["hydra-optuna-sweeper==1.3.0", "hydra-joblib-launcher==1.2.0"])
SYNE_TUNE = Environment(
    "syne-tune",
    ["dill", "pandas", "typing_extensions", "sortedcontainers", "scikit-learn", "tqdm", "psutil"],
    ["syne-tune==0.16.0"],  # bare, as its dependency xgboost brings CUDA libraries that the local backend never loads
)


def _locked() -> dict[str, str]:
    """Package → version, of `requirements.lock`."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(match.groups() for line in lines if (match := re.fullmatch(r"([\w.-]+)==(\S+)", line)))


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise NotInstallable(f"`{' '.join(command[:4])} …` failed: {last}")
