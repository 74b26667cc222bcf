"""What can happen around a driver: its database server is killed, a node of its cluster is, a trial outgrows its memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.faults.fault import Fault, Outcome, line_with
from benchmarks.faults.nodes import three_nodes
from benchmarks.faults.postgresql import running_server
from benchmarks.faults.workshop import PATIENCE_SECONDS, Check, Workshop, check, ended, held, trials
from sweeps.ledger import Ledger

HUNGRY = """
description: A trial that outgrows its memory where its batch is large.
trial:
  - experiment=vimh
  - model=vimh_mlp
  - data.data_dir='{data}'
  - data.generate.size=400
  - logger=none
  - trainer.max_epochs=2
  - "+callbacks.hog={{_target_: benchmarks.faults.machines.Hog, batch_size: 64, mib: 2000}}"
objective: {{metric: val/avg_acc, mode: max}}
space:
  data.batch_size: [32, 64]
search: {{sampler: random, trials: 1, start_with: [{{data.batch_size: 64}}]}}
stopping: {{scheduler: fifo}}
resources: {{memory: 1500 MiB}}
"""


def killed_database(workshop: Workshop) -> Outcome:
    """The PostgreSQL server that holds the study is killed, and started again some seconds later."""
    truth = workshop.truth()
    with running_server() as server, _variable("SWEEPS_STORAGE", server.secret_url):
        command, ledger = workshop.under_way("database")
        before = ended(ledger)
        server.stop(signal.SIGKILL)
        workshop.release("database")
        time.sleep(3)
        server.start()
        status, output = command.end()
        told = f"{line_with(output, 'does not answer')} / {line_with(output, 'answers again')}"
        return Outcome.of(told, check(workshop.ledger("database"), before, truth), status == 0)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def lost_node(workshop: Workshop) -> Outcome:
    """One of a cluster's two workers is killed under a submitted sweep whose trials keep their files on their nodes."""
    truth, space = workshop.truth(), workshop.space("cluster", more="resources: {trial_files: node}\n")
    with three_nodes() as nodes:
        log, there = nodes.directory / "submit.log", Ledger("cluster", nodes.there)
        workshop.hold("cluster")
        submitter = nodes.submitting(log, space, "--address", nodes.address, "--runs", workshop.runs)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not held(there):
            if submitter.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)
        before = ended(there)
        nodes.kill_worker("w1")
        workshop.release("cluster")
        status = submitter.wait(PATIENCE_SECONDS)
        output = log.read_text()
    told = line_with(output, "lost its process", "trials ended")
    return Outcome.of(told, check(workshop.ledger("cluster"), before, truth), status == 0, "and back in the local ledger")


class Hog(Callback):
    """Holds so many MiB in a trial whose batches are of this size."""

    def __init__(self, batch_size: int, mib: int) -> None:
        self._batch_size, self._mib = batch_size, mib
        self._held: torch.Tensor | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.datamodule.batch_size == self._batch_size:
            self._held = torch.ones(self._mib, 2**18)
            time.sleep(300)  # until it is killed, however seldom a busy machine looks


def outgrown_memory(workshop: Workshop) -> Outcome:
    """A trial holds more memory than it was allotted: it is killed, and run once more with half the batch."""
    space = workshop.directory / "memory.yaml"
    space.write_text(HUNGRY.format(data=workshop.directory / "data" / "vimh"))
    status, _ = workshop.run("run", space)
    found = {trial.params["data.batch_size"]: trial for trial in trials(workshop.ledger("memory"))}
    told = found[64].user_attrs["verdict"]
    right = status == 0 and told.get("failure") == "oom" and found[32].state.name == "COMPLETE"
    return Outcome.of(told["reason"], Check(0, 0, 0, missing=1 - (32 in found)), right, "the half batch was run")


FAULTS = (
    Fault(
        "database server killed",
        "SIGKILL of the PostgreSQL server that holds the study; started again 3 s later",
        killed_database,
    ),
    Fault("node lost", "SIGKILL of all processes of one of a cluster's two workers", lost_node),
    Fault("memory outgrown", "a trial holds more than `resources: {memory: …}` allots", outgrown_memory),
)
