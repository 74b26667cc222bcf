"""Whole sweeps by their commands: real Ray, real Optuna, real kills."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from benchmarks.faults.process_tree import descendants
from sweeps.ledger import Ledger, read_history

ENDS = """
space:
  model.optimizer.lr: {choice: [1.0e-3, 1.0e-2, 1.0e+30]}
  data.target_width: {uniform: [0.9, 1.1]}
  callbacks.bomb.armed: [false, true]
search:
  trials: 9
  sampler: random
  start_with:
    - {model.optimizer.lr: 1.0e-2, callbacks.bomb.armed: false}
    - {model.optimizer.lr: 1.0e+30, callbacks.bomb.armed: false}
    - {model.optimizer.lr: 1.0e-2, callbacks.bomb.armed: true}
    - {model.optimizer.lr: 1.0e-2, callbacks.bomb.armed: false}
    - {model.optimizer.lr: 1.0e-3, callbacks.bomb.armed: false}
    - {model.optimizer.lr: 1.0e-3, callbacks.bomb.armed: false}
    - {model.optimizer.lr: 1.0e-3, callbacks.bomb.armed: false}
stopping: {scheduler: asha, grace_epochs: 2, reduction_factor: 2}
"""
BOMB = "+callbacks.bomb={_target_: bomb.Bomb, armed: false}"


def finite_metrics(directory: Path) -> dict[str, float]:
    """What a run left in `metrics.json`, where a number that is not finite is null."""
    metrics = json.loads((directory / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if value is not None}


def test_every_end_stands_in_the_study_as_what_it_was_and_trials_replay_bit_for_bit(command, write_space, tmp_path):
    space = write_space(ENDS, "trainer.max_epochs=6", BOMB)
    runs = tmp_path / "runs"
    status, output = command("sweeps", "run", space, "--runs", runs)
    assert status == 0, output
    assert "tiny: 9 of 9 trials ended" in output
    ledger = Ledger("tiny", runs)
    trials = ledger.study().get_trials()
    assert len(trials) == 9
    verdicts = {trial.number: trial.user_attrs["verdict"]["verdict"] for trial in trials}
    assert verdicts[1] == "broken"
    assert verdicts[2] == "failed"
    assert "outranked" in verdicts.values()
    for trial in trials:
        verdict, files = verdicts[trial.number], ledger.trial(trial.number)
        history = read_history(files.history)
        assert trial.intermediate_values.keys() == {row["epoch"] for row in history}
        if verdict == "finished":
            assert trial.state == TrialState.COMPLETE
            assert trial.value == max(trial.intermediate_values.values())
            assert max(trial.intermediate_values) == 6
            assert trial.user_attrs["metrics"] == finite_metrics(files.directory)
            assert "test/avg_acc" in trial.user_attrs["metrics"]
        elif verdict == "outranked":
            assert trial.state == TrialState.PRUNED
            assert 0 < len(trial.intermediate_values) < 6
            assert history[-1]["verdict"] == f"outranked: {trial.user_attrs['verdict']['reason']}"
            assert files.last_checkpoint.exists()
        elif verdict == "failed":
            assert trial.state == TrialState.FAIL
            assert "RuntimeError: the bomb went off" in files.error.read_text()
            assert trial.user_attrs["verdict"]["reason"] == "RuntimeError: the bomb went off"
        else:
            assert (verdict, trial.state) == ("broken", TrialState.FAIL)
            assert trial.user_attrs["verdict"]["reason"].startswith("not finite")

    finished = next(number for number, verdict in verdicts.items() if verdict == "finished")
    chosen = ledger.trial(finished).overrides.read_text().splitlines()
    status, output = command("lhtx.train", *chosen, f"paths.output_dir={tmp_path / 'replay'}")
    assert status == 0, output
    recorded = (ledger.trial(finished).directory / "metrics.json").read_text()
    assert (tmp_path / "replay" / "metrics.json").read_text() == recorded

    status, output = command("sweeps", "run", space, "--runs", runs)
    assert status == 2
    assert "a sweep is never overwritten" in output
    assert all(hint in output for hint in ("make resume NAME=tiny", "make extend NAME=tiny", "AS=tiny2"))
    status, output = command("sweeps", "extend", "tiny", "--trials", "+1", "--runs", runs)
    assert status == 0, output
    assert "9 → 10 trials" in output
    assert len(ledger.study().get_trials()) == 10


LONG = """
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-2]}
search: {trials: 5}
stopping: {scheduler: fifo, guard: {mode: "off"}}
"""


def wait_for(driver, condition, seconds=600.0):
    """Wait until a sweep that `driver` runs has come to a state."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, "the sweep did not get there in time"
        time.sleep(0.2)


def rows_of(ledger: Ledger) -> list[list[int]]:
    return [[row["epoch"] for row in read_history(path)] for path in sorted(ledger.trials_directory.glob("*/history.csv"))]


@pytest.mark.slow
def test_a_driver_killed_in_mid_sweep_loses_nothing_and_repeats_nothing(start, command, brake, write_space, tmp_path):
    space = write_space(LONG, "trainer.max_epochs=25")
    ledger = Ledger("tiny", tmp_path / "runs")
    brake(1, 1, 2, 3, 4)

    def midway() -> bool:
        """One trial has ended, by the study, which is told so after the last row was written; another has come some way."""
        trials = ledger.study().get_trials() if ledger.exists() else []
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        ended = any(trial.state.is_finished() for trial in trials)
        return ended and any(1 < len(trial.intermediate_values) < 20 for trial in running)

    driver = start("sweeps", "run", space, "--runs", ledger.root)
    wait_for(driver, midway)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    brake(0, 1, 2, 3, 4)
    before = {trial.number: trial for trial in ledger.study().get_trials()}
    ended = [number for number, trial in before.items() if trial.state.is_finished()]
    interrupted = [number for number, trial in before.items() if len(trial.intermediate_values) > 1 and number not in ended]
    assert ended
    assert interrupted

    status, output = command("sweeps", "resume", "tiny", "--runs", ledger.root)
    assert status == 0, output
    assert re.search(r"interrupted trials? go(es)? on from (its|their) last checkpoint", output)
    after = {trial.number: trial for trial in ledger.study().get_trials()}
    assert len(after) == 5
    assert all(trial.state == TrialState.COMPLETE for trial in after.values())
    assert rows_of(ledger) == [list(range(1, 26))] * 5
    for number in ended:
        assert after[number].datetime_complete == before[number].datetime_complete
        assert ledger.trial(number).log.read_text().count(f"trial {number} begins") == 1
        assert f"trial {number} goes on" not in ledger.trial(number).log.read_text()
    for number in interrupted:
        assert f"trial {number} goes on from" in ledger.trial(number).log.read_text()
    # The interruption cannot be told from the numbers.
    number = interrupted[0]
    chosen = ledger.trial(number).overrides.read_text().splitlines()
    status, output = command("lhtx.train", *chosen, f"paths.output_dir={tmp_path / 'replay'}")
    assert status == 0, output
    assert finite_metrics(tmp_path / "replay") == after[number].user_attrs["metrics"]

    status, output = command("sweeps", "resume", "tiny", "--runs", ledger.root)
    assert (status, "all 5 trials have ended" in output) == (0, True)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(start, command, brake, write_space, tmp_path):
    space = write_space(LONG, "trainer.max_epochs=40")
    ledger = Ledger("tiny", tmp_path / "runs")
    brake(1, *range(5))
    driver = start("sweeps", "run", space, "--runs", ledger.root)
    wait_for(driver, lambda: any(len(rows) > 5 for rows in rows_of(ledger)))
    brake(30, *range(5))  # it runs while another command is refused for that
    status, output = command("sweeps", "resume", "tiny", "--runs", ledger.root)
    assert status == 2
    assert f"is being run by process {driver.pid} on" in output
    brake(1, *range(5))
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=600)
    brake(0, *range(5))
    assert driver.returncode == 130, output
    assert "Go on with: make resume NAME=tiny RUNS=" in output
    assert "Traceback" not in output
    status, output = command("sweeps", "resume", "tiny", "--runs", ledger.root)
    assert status == 0, output
    assert rows_of(ledger) == [list(range(1, 41))] * 5


@pytest.mark.slow
def test_a_lost_worker_costs_no_trial_and_a_killed_trial_only_itself(start, brake, write_space, tmp_path):
    space = write_space(LONG, "trainer.max_epochs=40")
    ledger = Ledger("tiny", tmp_path / "runs")
    brake(1, 1, 2, 3, 4)
    driver = start("sweeps", "run", space, "--runs", ledger.root)
    wait_for(driver, lambda: any(3 < len(rows) < 30 for rows in rows_of(ledger)))
    processes = descendants(driver.pid)
    actor = next(pid for pid, name in processes.items() if name.startswith("ray::TrialActor"))
    os.kill(actor, signal.SIGKILL)
    wait_for(driver, lambda: any(40 in rows for rows in rows_of(ledger)))
    trials: list[int] = []

    def find_trials() -> bool:
        """A trial's process is what a server has forked, and writes into its trial's log; one in mid-course will do."""
        servers = [pid for pid, name in descendants(driver.pid).items() if "sweeps.process" in name]
        for child in {child for server in servers for child in descendants(server)}:
            try:
                log = Path(os.readlink(f"/proc/{child}/fd/1"))
            except OSError:
                continue  # it has ended meanwhile
            if log.name == "stdout.log" and 3 < len(read_history(log.parent / "history.csv")) < 20:
                trials.append(child)
        return bool(trials)

    wait_for(driver, find_trials)
    os.kill(trials[0], signal.SIGKILL)
    brake(0, 1, 2, 3, 4)
    output, _ = driver.communicate(timeout=600)
    assert driver.returncode == 0, output
    verdicts = [trial.user_attrs["verdict"] for trial in ledger.study().get_trials()]
    assert sorted(verdict["verdict"] for verdict in verdicts) == ["failed"] + ["finished"] * 4
    assert next(v["reason"] for v in verdicts if v["verdict"] == "failed").startswith("killed by SIGKILL")
    finished = [number for number, verdict in enumerate(verdicts) if verdict["verdict"] == "finished"]
    assert [rows_of(ledger)[number] for number in finished] == [list(range(1, 41))] * 4
    assert not descendants(driver.pid)


@pytest.mark.slow
def test_trials_that_all_fail_for_one_reason_end_the_sweep(command, write_space, tmp_path):
    space = write_space(LONG.replace("trials: 5", "trials: 30"), "trainer.max_epochs=2", BOMB.replace("false", "true"))
    status, output = command("sweeps", "run", space, "--runs", tmp_path / "runs")
    assert status == 1
    assert "the first trials all ended for one reason: failed RuntimeError: the bomb went off" in output
    assert "error.txt; that trial alone: make debug NAME=tiny RUNS=" in output
    assert len(list((tmp_path / "runs" / "tiny" / "trials").iterdir())) < 10


@pytest.mark.slow
def test_debug_replays_a_trial(command, write_space, tmp_path):
    space = write_space(LONG.replace("trials: 5", "trials: 2"), "trainer.max_epochs=2")
    runs = tmp_path / "runs"
    assert command("sweeps", "run", space, "--runs", runs)[0] == 0
    status, output = command("sweeps", "debug", "tiny", "--trial", "1", "--runs", runs)
    assert status == 0, output
    metrics = Ledger("tiny", runs).study().get_trials()[1].user_attrs["metrics"]
    assert all(f"{name} = {value!r}" in output for name, value in metrics.items())
    outputs = Path(re.search(r"outputs: (.*)", output).group(1))
    assert (outputs / "metrics.json").exists()
    status, output = command("sweeps", "debug", "tiny", "--trial", "9", "--runs", runs)
    assert status == 2
    assert "Trial 9 of the sweep 'tiny' does not exist. Trials that ran: 0 to 1." in output


LIFE = """
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-2]}
  callbacks.bomb.armed: [false, true]
search:
  trials: 3
  sampler: random
  start_with:
    - {model.optimizer.lr: 1.0e-2, callbacks.bomb.armed: false}
    - {model.optimizer.lr: 1.0e-3, callbacks.bomb.armed: true}
    - {model.optimizer.lr: 1.0e-3, callbacks.bomb.armed: false}
stopping: {scheduler: fifo, guard: {mode: "off"}}
"""


@pytest.mark.slow
def test_a_sweep_s_whole_life(start, command, brake, write_space, environment, tmp_path):
    """Stopped from elsewhere, resumed, its failure retried, its winner trained further, reproduced and exported."""
    space = write_space(LIFE, "trainer.max_epochs=60", BOMB, "logger=tensorboard")
    ledger = Ledger("tiny", tmp_path / "runs")
    runs = ("--runs", ledger.root)
    brake(1, 0, 2)
    driver = start("sweeps", "run", space, *runs)
    wait_for(driver, lambda: any(len(rows) > 2 for rows in rows_of(ledger)))
    brake(30, 0, 2)  # it runs for as long as it is looked at
    watcher = start("sweeps", "status", "tiny", "--watch", *runs)
    status, output = command("sweeps", "list", *runs)
    assert (status, output.splitlines()[1].split()[:2]) == (0, ["tiny", "running"])
    status, output = command("sweeps", "status", "tiny", *runs)
    assert status == 0
    assert f"tiny: running (process {driver.pid} on " in output
    assert re.search(r"trial \d runs: █", output)
    for arguments in (
        ["retry", "tiny"],
        ["continue", "tiny", "--trial", "0", "--epochs", "+1"],
        ["extend", "tiny", "--trials", "9"],
    ):
        status, output = command("sweeps", *arguments, *runs)
        assert (status, f"is being run by process {driver.pid}" in output) == (2, True)
    brake(1, 0, 2)
    status, output = command("sweeps", "stop", "tiny", *runs)
    assert (status, "tiny has stopped. Go on with: make resume NAME=tiny" in output) == (0, True)
    output, _ = driver.communicate(timeout=600)
    assert driver.returncode == 130, output
    output, _ = watcher.communicate(timeout=600)
    assert watcher.returncode == 0
    assert "tiny: interrupted" in output
    brake(0, 0, 2)

    assert command("sweeps", "resume", "tiny", *runs)[0] == 0
    bomb = Path(environment["PYTHONPATH"].split(os.pathsep)[0]) / "bomb.py"
    bomb.write_text(bomb.read_text().replace("if self.armed", "if False"))
    status, output = command("sweeps", "retry", "tiny", "--only", "error", *runs)
    assert (status, "1 trials are run again: 1 (error)." in output) == (0, True)
    assert "4 of 4 trials ended (3 finished" in output
    status, output = command("sweeps", "continue", "tiny", "--trial", "0", "--epochs", "+5", *runs)
    assert (status, "5 of 5 trials ended" in output) == (0, True)
    trials = {trial.number: trial for trial in ledger.study().get_trials()}
    assert [trial.state for trial in trials.values()].count(TrialState.COMPLETE) == 4
    (further,) = [trial for trial in trials.values() if "continues" in trial.user_attrs]
    assert [row["epoch"] for row in read_history(ledger.trial(further.number).history)] == list(range(1, 66))
    copied, own = (list(ledger.trial(number).directory.glob("tensorboard/*.hparams")) for number in (0, further.number))
    assert (len(copied), len(own)) == (1, 1), "each its own row in TensorBoard's table of hyperparameters"
    assert copied[0].name != own[0].name
    # Trained in two pieces, and reproduced in one.
    status, output = command("sweeps", "reproduce", "tiny", further.number, *runs)
    assert (status, "over 65 epochs, to the bit" in output) == (0, True), output
    assert command("analysis", "export", "tiny", "--root", ledger.root)[0] == 0
    assert (ledger.export_directory / "trials.csv").read_text().count("\n") == 6
    status, output = command("sweeps", "list", *runs)
    assert output.splitlines()[1].split()[:3] == ["tiny", "complete", "5/5"]
