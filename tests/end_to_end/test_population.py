"""Population-based training by its commands: real Ray, real training, a kill in between."""

from __future__ import annotations

import signal
import time

import pytest
from optuna.trial import TrialState

from lhtx.checkpoints import load_checkpoint
from lhtx.compose import compose
from sweeps.ledger import Ledger, read_history

SPACE = """
space:
  model.optimizer.lr: {log_uniform: [1.0e-5, 1.0e-1]}
  model.optimizer.weight_decay: {choice: [0.0, 0.01, 0.1]}
search:
  trials: 4
  sampler: random
  start_with:
    - {model.optimizer.lr: 1.0e-5}
    - {model.optimizer.lr: 1.0e-2}
    - {model.optimizer.lr: 3.0e-5}
    - {model.optimizer.lr: 3.0e-3}
stopping:
  scheduler: pbt
  interval_epochs: 2
  perturb: [model.optimizer.lr, model.optimizer.weight_decay]
  guard: {mode: "off"}
"""


@pytest.mark.slow
def test_a_population_that_is_killed_ends_complete_and_its_winner_reproduces(command, start, brake, write_space, tmp_path):
    space = write_space(SPACE, "trainer.max_epochs=6")
    brake(1, *range(4))
    brake(5, *range(4, 8))  # a copy that has trained an epoch has some to go
    runs = tmp_path / "runs"
    ledger = Ledger("tiny", runs)
    process = start("sweeps", "run", space, "--runs", runs)
    try:
        deadline = time.monotonic() + 600
        while not any(ledger.trial(number).history.exists() for number in range(4, 8)):  # a copy has trained
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    brake(0, *range(8))
    status, output = command("sweeps", "resume", "tiny", "--runs", runs)
    assert status == 0, output
    trials = ledger.study().get_trials()
    ran = [trial for trial in trials if "overrides" in trial.user_attrs]
    copies = [trial for trial in ran if "exploits" in trial.user_attrs]
    assert len(copies) == 2, "one at the end of each of the two generations that leave a whole interval"
    assert sorted(trial.state for trial in ran) == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED] * 2
    for copy in copies:
        files, start_epoch = ledger.trial(copy.number), copy.user_attrs["to_epochs"]
        start_checkpoint = load_checkpoint(files.start_checkpoint)
        assert start_checkpoint["epoch"] + 1 == start_epoch
        epochs = [row["epoch"] for row in read_history(files.history)]
        assert epochs[0] == start_epoch + 1
        assert list(copy.intermediate_values) == epochs
        if copy.state != TrialState.COMPLETE:
            continue
        assert copy.value == max(copy.intermediate_values.values())
        last = load_checkpoint(files.last_checkpoint)
        assert last["optimizer_states"][0]["param_groups"][0]["lr"] == copy.params["model.optimizer.lr"]
        again = command("sweeps", "reproduce", "tiny", str(copy.number), "--runs", runs)
        assert again[0] == 0, again[1]
        assert f"is a copy of trial {copy.user_attrs['exploits']}" in again[1]
        assert compose(copy.user_attrs["overrides"]).restore.hyperparameters == "config"
        last_copy = copy
    status, output = command("sweeps", "debug", "tiny", "--trial", str(last_copy.number), "--runs", runs)
    assert status == 0, output
    assert f"epoch {last_copy.user_attrs['to_epochs'] + 1}/6" in output
