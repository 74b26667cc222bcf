"""What of a process's state one trial can leave behind for the next: a probe that looks, and a careless trial that leaves it.

Both come into a trial by its config: the probe as its datamodule, which is the first of its objects to be made, before
`lhtx` seeds anything or sets threads; the careless one as a callback.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from lhtx.data import VIMHDataModule

LARGE = 1_000_000
"""Elements from which on a tensor that is still there counts as left behind."""


def state() -> dict[str, Any]:
    """The process's state now, by name."""
    found = {
        "random state of torch": _digest(torch.get_rng_state().numpy().tobytes()),
        "random state of NumPy": _digest(repr(np.random.get_state())),
        "random state of Python": _digest(repr(random.getstate())),
        "default dtype": str(torch.get_default_dtype()),
        "thread count": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "gradients enabled": torch.is_grad_enabled(),
        "Hydra's global state": GlobalHydra.instance().is_initialized(),
        "Lightning's global state": {key: value for key, value in sorted(os.environ.items()) if key.startswith("PL_")},
        "environment": {key: value for key, value in sorted(os.environ.items()) if not key.startswith("PL_")},
        "working directory": os.getcwd(),
        "module path": list(sys.path),
        "open files": sorted(_open_files()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "module hooks": sum(len(table) for name, table in vars(hooks).items() if name.startswith("_global_") and table),
        "patched class": nn.Linear.forward.__qualname__,
        "warnings filters": [str(entry) for entry in warnings.filters],
        "log level": logging.getLogger().level,
        "log handlers": [type(handler).__name__ for handler in logging.getLogger().handlers],
        "signal handlers": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "exit handlers": atexit._ncallbacks(),
        "tensors held": sum(isinstance(o, Tensor) and o.numel() >= LARGE for o in gc.get_objects()),
    }
    if torch.cuda.is_available():
        found["memory on the GPU"] = torch.cuda.memory_reserved()
    return found


def _digest(content: bytes | str) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()[:12]


def _open_files() -> list[str]:
    """Files of the disk alone: pipes and sockets are the channel's."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the listing's own
            continue
    return [
        link for link in links if link.startswith("/") and not link.startswith(("/dev/", "/proc/")) and Path(link).is_file()
    ]


class ProbedDataModule(VIMHDataModule):
    """The datamodule, which notes the process's state in `probe` when the trial makes it first, and in `left` at the end."""

    def __init__(self, *arguments: Any, probe: str, left: str, **options: Any) -> None:
        file = Path(probe)
        if not file.exists():
            file.write_text(json.dumps(state()))
        self._left = Path(left)
        super().__init__(*arguments, **options)

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        self._left.write_text(json.dumps(state()))


class Careless(Callback):
    """Leaves something of every kind behind."""

    held: list[Any] = []  # noqa: RUF012  meant to outlive the trial

    def __init__(self, file: str) -> None:
        self._file = file

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())
        torch.set_float32_matmul_precision("medium")
        for draw in (random.random, np.random.rand, lambda: torch.rand(1)):
            draw()
        os.environ["CARELESS"] = os.environ["PL_CARELESS"] = "1"
        os.chdir(Path(self._file).parent)
        sys.path.append(self._file)
        self.held += [open(self._file, "w"), torch.zeros(LARGE, device=pl_module.device)]  # noqa: SIM115
        threading.Thread(target=threading.Event().wait, name="careless", daemon=True).start()
        hooks.register_module_forward_hook(lambda module, inputs, output: None)
        nn.Linear.forward = _patched(nn.Linear.forward)
        warnings.simplefilter("error", ResourceWarning)
        logging.getLogger().setLevel(logging.DEBUG)
        logging.getLogger().addHandler(logging.NullHandler())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        atexit.register(print)


def _patched(forward: Any) -> Any:
    def patched(self: nn.Linear, image: Tensor) -> Tensor:
        return forward(self, image)

    return patched
