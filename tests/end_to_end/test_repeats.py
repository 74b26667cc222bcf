"""A sweep over several seeds by its commands: interrupted, resumed, told by mean; and one that starts from it."""

from __future__ import annotations

import signal
import time

import pytest

from analysis import load
from sweeps.attributes import FROM, REPEATS, own_trials
from sweeps.ledger import Ledger

SPACE = """
space:
  model.optimizer.lr: {log_uniform: [1.0e-3, 1.0e-1]}
search: {trials: 3, repeats: {seeds: 3, top: 2}}
stopping: {scheduler: fifo, guard: {mode: "off"}}
outcome_constraints: [{metric: parameters, max: 1_000_000}]
"""
WARM = """
space:
  model.optimizer.lr: {log_uniform: [1.0e-3, 1.0e-1]}
search: {trials: 1, from: [tiny]}
stopping: {scheduler: fifo, guard: {mode: "off"}}
"""


@pytest.mark.slow
def test_repeats_survive_a_kill_and_the_best_mean_wins(start, command, brake, write_space, tmp_path):
    runs = tmp_path / "runs"
    space = write_space(SPACE, "trainer.max_epochs=2")
    brake(900, 3, 4, 5, 6)  # the repeats, which are under way when the driver is killed
    driver = start("sweeps", "run", space, "--runs", runs)
    ledger = Ledger("tiny", runs)
    deadline = time.monotonic() + 600
    while not (ledger.exists() and any(REPEATS in trial.user_attrs for trial in ledger.study().get_trials())):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    output, _ = driver.communicate(timeout=600)
    assert driver.returncode == -signal.SIGKILL, output
    brake(0, 3, 4, 5, 6)

    status, output = command("sweeps", "resume", "tiny", "--runs", runs)
    assert status == 0, output
    assert "tiny: 7 of 7 trials ended" in output
    assert "by mean over 3 seeds: trial" in output
    trials = [trial for trial in ledger.study().get_trials() if "overrides" in trial.user_attrs]
    sources = [trial.user_attrs[REPEATS] for trial in trials if REPEATS in trial.user_attrs]
    assert sorted(sources) == sorted([*set(sources)] * 2)
    assert len(set(sources)) == 2
    assert len({trial.user_attrs["overrides"][-1] for trial in trials}) == 7, "each has a seed of its own"
    sweep = load("tiny", runs)
    assert sweep.configurations["seeds"].tolist() == [3, 3, 1]
    assert f"trial {sweep.configurations['number'].iloc[0]}" in output

    status, output = command("sweeps", "run", write_space(WARM, "trainer.max_epochs=1", name="warm"), "--runs", runs)
    assert status == 0, output
    assert "from tiny: 7 finished trials inform the sampler" in output
    assert "trainer.max_epochs=2 there, trainer.max_epochs=1 here" in output
    warm = Ledger("warm", runs).study().get_trials()
    assert sum(FROM in trial.user_attrs for trial in warm) == 7
    assert [trial.number for trial in own_trials(warm)] == [7]
