"""Whole sweeps that run into their limits: a trial's memory, the sweep's budget. Real Ray, real processes, real kills."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sweeps.ledger import Ledger, read_history

HOG = """
import json, os, time
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class Hog(Callback):
    '''Holds 2 GiB where the batch is larger than 32, and writes down what the process sees.'''

    def on_train_epoch_start(self, trainer, pl_module):
        seen = {"devices": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": torch.get_num_threads()}
        Path(trainer.default_root_dir, "seen.json").write_text(json.dumps(seen))
        if trainer.datamodule.batch_size > 32:
            block = np.ones(2**28)
            time.sleep(60)
"""
MEMORY = """
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-2]}
  data.batch_size: {power_of_two: [16, 64]}
search:
  trials: 2
  start_with: [{data.batch_size: 64}, {data.batch_size: 16}]
stopping: {scheduler: fifo, guard: {mode: "off"}}
resources: {cpu: 1, memory: 1 GiB}
"""


@pytest.fixture
def write_with_hog(write_space, environment):
    """A function: the rest of a space → its file; trials hold too much where the batch is larger than 32."""
    Path(environment["PYTHONPATH"].split(os.pathsep)[0], "hog.py").write_text(HOG)

    def write(rest):
        path = write_space(rest, "trainer.max_epochs=2", "+callbacks.hog={_target_: hog.Hog}")
        path.write_text(path.read_text().replace('  - "data.batch_size=64"\n', ""))
        return path

    return write


@pytest.mark.slow
def test_a_trial_that_holds_too_much_is_killed_and_run_once_more_with_half_the_batch(command, write_with_hog, tmp_path):
    status, output = command("sweeps", "run", write_with_hog(MEMORY), "--runs", tmp_path / "runs")
    assert status == 0, output
    assert "with 1 CPU and 1 GiB of memory each" in output
    assert "3 of 3 trials ended (2 finished" in output
    assert "GiB of the 1 GiB that it was allotted (run once more with data.batch_size=32)" in output
    ledger = Ledger("tiny", tmp_path / "runs")
    trials = {trial.params["data.batch_size"]: trial for trial in ledger.study().get_trials()}
    assert {size: trial.state for size, trial in trials.items()} == {
        64: TrialState.FAIL,
        32: TrialState.COMPLETE,
        16: TrialState.COMPLETE,
    }
    assert trials[64].user_attrs["verdict"]["failure"] == "oom"
    assert (trials[32].user_attrs["retries"], trials[32].params["model.optimizer.lr"]) == (
        trials[64].number,
        trials[64].params["model.optimizer.lr"],
    )
    seen = json.loads((ledger.trial(trials[16].number).directory / "seen.json").read_text())
    assert seen == {"devices": "", "threads": 1}
    status, output = command("sweeps", "retry", "tiny", "--only", "oom", "--runs", ledger.root)
    assert (status, "no oom trial to retry" in output) == (0, True), output


BUDGET = """
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-2]}
search: {trials: 3}
stopping: {scheduler: fifo, guard: {mode: "off"}}
budget: {hours: 1, epochs: 8, cost: 1000, prices: {cpu: 1}}
"""


@pytest.mark.slow
def test_a_sweep_stops_when_its_budget_is_spent_and_goes_on_with_more(command, write_space, tmp_path):
    ledger = Ledger("tiny", tmp_path / "runs")
    status, output = command("sweeps", "run", write_space(BUDGET, "trainer.max_epochs=10"), "--runs", ledger.root)
    assert status == 0, output
    assert "the budget is spent: 0.0" in output
    assert "of 8 epochs, cost 0.0" in output
    assert re.search(r"unfinished trials? kept (its|their) last checkpoint", output)
    status, output = command("sweeps", "resume", "tiny", "--runs", ledger.root)
    assert (status, "nothing was started" in output) == (0, True)
    assert len(ledger.manifest()["sessions"]) == 1
    status, output = command("sweeps", "extend", "tiny", "--epochs", "40", "--runs", ledger.root)
    assert status == 0, output
    assert "3 of 3 trials ended (3 finished" in output
    assert "30 of 40 epochs" in output
    rows = [[row["epoch"] for row in read_history(ledger.trial(number).history)] for number in range(3)]
    assert rows == [list(range(1, 11))] * 3
    first, second = ledger.manifest()["sessions"]
    assert 0 < first["seconds"] < 300
    assert 0 < second["seconds"] < 300
    status, output = command("analysis", "report", "tiny", "--root", ledger.root)
    assert "of 1 hours, 30 of 40 epochs, cost 0.0" in output
