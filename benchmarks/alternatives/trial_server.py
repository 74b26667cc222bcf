"""Trials in one process that is used again and again, with the state reset in between as far as that can be done.

`python -m benchmarks.alternatives.trial_server` speaks the protocol of `sweeps.process` (an assignment in, reports out, an
answer to each) without the containment. It is what `sweeps.process` is measured against, not a part of the platform.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import socket
import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch


def snapshot() -> Callable[[], None]:
    """Remembers what a reset in a process can reach; the function returned brings it back.

    What it cannot reach: files, threads and modules that a trial left, patched classes, exit handlers, memory that is still
    referenced, state of libraries that it has never heard of.
    """
    from hydra.core.global_hydra import GlobalHydra
    from torch.nn.modules import module as hooks

    environment, directory, path = dict(os.environ), os.getcwd(), list(sys.path)
    filters, level = list(warnings.filters), logging.getLogger().level
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    tables = [name for name in vars(hooks) if name.startswith("_global_") and hasattr(getattr(hooks, name), "clear")]

    def reset() -> None:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
        sys.path[:] = path
        warnings.filters[:] = filters
        logging.getLogger().setLevel(level)
        random.seed(0)
        torch.manual_seed(0)
        np.random.seed(0)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(precision)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in tables:
            getattr(hooks, name).clear()
        GlobalHydra.instance().clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    return reset


def serve() -> None:
    """Run assignment after assignment until the input ends."""
    from sweeps.channel import Channel
    from sweeps.trial import Assignment, ChannelListener, preload, run_trial

    channel = Channel(socket.socket(fileno=os.dup(0)))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a trial prints that it begins; the others' logs hold that
    preload()
    reset = snapshot()

    while (message := channel.receive()) is not None:
        assignment = Assignment.from_message(message["group"][0])
        channel.send({"kind": "started", "pid": os.getpid(), "server": os.getppid()})
        channel.send({"kind": "finished", "metrics": run_trial(assignment, ChannelListener(channel, assignment.number))})
        reset()
        channel.send({"kind": "exit", "status": 0})


if __name__ == "__main__":
    serve()
