"""A Ray cluster of three nodes on this machine: sweeps submitted to it over the Jobs port outlive a node and the submitter."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults.nodes import Nodes
from lhtx.checkpoints import load_checkpoint
from sweeps.ledger import Ledger, own_trials, read_history
from sweeps.overview import overview

SPACE = """
description: A sweep that is small enough for a test.
trial:
  - experiment=vimh
  - model=vimh_mlp
  - data.data_dir={data}
  - data.generate=null
  - trainer.max_epochs={epochs}
  - trainer.limit_train_batches=2
  - "+callbacks.brake={{_target_: bomb.Brake}}"
objective: {{metric: val/avg_acc, mode: max}}
space:
  model.optimizer.lr: {{log_uniform: [1.0e-4, 1.0e-2]}}
search: {{trials: {trials}, sampler: random, seed: 3}}
stopping: {{scheduler: fifo, guard: {{mode: "off"}}}}
resources: {{trial_files: node}}
"""


def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def write_space(nodes: Nodes, name: str, data: Path, trials: int, epochs: int) -> Path:
    path = nodes.directory / f"{name}.yaml"
    path.write_text(SPACE.format(data=data, trials=trials, epochs=epochs))
    return path


def ended(ledger: Ledger) -> int:
    return overview(ledger).ended.total() if ledger.exists() else 0


@pytest.mark.slow
def test_a_sweep_outlives_a_node_and_the_one_who_submitted_it(nodes, vimh_dataset):
    space, local = write_space(nodes, "outlives", vimh_dataset, 6, epochs := 40), nodes.directory / "local"
    log = nodes.directory / "submit.log"
    submitter = nodes.submitting(log, space, "--address", nodes.address, "--runs", local)
    there = Ledger("outlives", nodes.there)
    copies = nodes.directory / "scratch" / f"lhtx-sweeps-{os.getuid()}"
    unpacked = set()

    def two_have_ended() -> bool:
        unpacked.update(copies.glob(f"*/data/.0/*/{next(vimh_dataset.glob('*.json')).name}"))
        assert submitter.poll() is None, log.read_text()
        return ended(there) >= 2 and len(unpacked) == 2  # the data has come to each node

    until(two_have_ended)
    submitter.kill()
    nodes.kill_worker("w1")
    attached = nodes.sweeps("attach", "outlives", "--address", nodes.address, "--runs", local)
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert "outlives: 6 of 6 trials ended (6 finished" in attached.stdout

    for ledger in (there, Ledger("outlives", local)):
        trials = own_trials(ledger.study().get_trials())
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
        for trial in trials:
            assert [row["epoch"] for row in read_history(ledger.trial(trial.number).history)] == list(range(1, epochs + 1))
            assert (ledger.trial(trial.number).directory / "metrics.json").exists()
            text = ledger.trial(trial.number).config.read_text() + ledger.trial(trial.number).log.read_text()
            assert str(copies) not in text, "paths are those of the sweep's directory"
            assert str(vimh_dataset) in text
    best = overview(there).best[0]
    for number in range(6):
        files = there.trial(number)
        callbacks = load_checkpoint(files.last_checkpoint)["callbacks"]
        assert str(files.checkpoints / "best.ckpt") in {
            state.get("best_model_path") for state in callbacks.values() if isinstance(state, dict)
        }
        assert Ledger("outlives", local).trial(number).last_checkpoint.exists() == (number == best)
    record = Ledger("outlives", local).manifest()
    assert record["sessions"][0]["code"].keys() >= {"commit", "diff"}

    again = nodes.sweeps("fetch", "outlives", "--address", nodes.address, "--runs", local, "--checkpoints", "all")
    assert again.returncode == 0, again.stderr
    assert Ledger("outlives", local).trial((best + 1) % 6).last_checkpoint.exists()


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on_when_it_is_submitted_again(nodes, brake_there, vimh_dataset):
    space, local = write_space(nodes, "stopped", vimh_dataset, 2, epochs := 40), nodes.directory / "local"
    brake_there(1, 0, 1)
    arguments = (space, "--address", nodes.address, "--runs", local)
    sent = nodes.sweeps("submit", *arguments, "--cluster-runs", nodes.there, "--no-wait")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    there = Ledger("stopped", nodes.there)
    until(lambda: there.exists() and any(trial.epoch >= 2 for trial in overview(there).running))
    brake_there(30, 0, 1)  # it runs while it is submitted again
    second = nodes.submitting(nodes.directory / "second.log", *arguments)
    until(lambda: "stopped runs there already, as job sweep-stopped-" in (nodes.directory / "second.log").read_text())
    brake_there(5, 0, 1)
    stop = nodes.sweeps("stop", "stopped", "--address", nodes.address)
    brake_there(0, 0, 1)
    assert stop.returncode == 0, stop.stdout + stop.stderr
    assert "stopped has stopped: job" in stop.stdout
    assert second.wait(600) == 130
    assert overview(there).state == "interrupted"
    assert there.manifest()["sessions"][-1]["end"] == "interrupted"

    done = nodes.sweeps("submit", *arguments, "--cluster-runs", nodes.there)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"interrupted trials? go(es)? on from (its|their) last checkpoint", done.stdout)
    for trial in Ledger("stopped", local).study().get_trials():
        history = read_history(there.trial(trial.number).history)
        assert [row["epoch"] for row in history] == list(range(1, epochs + 1))

    space.write_text(space.read_text().replace(f"max_epochs={epochs}", "max_epochs=3"))
    refused = nodes.sweeps("submit", *arguments, "--cluster-runs", nodes.there)
    assert refused.returncode == 2
    assert "was edited since the sweep 'stopped' began" in refused.stdout


@pytest.mark.slow
def test_a_cluster_that_wants_a_token_says_so(nodes):
    bare = {name: value for name, value in nodes.environment.items() if not name.startswith("RAY_AUTH")}
    bare["HOME"] = str(nodes.directory)
    missing = nodes.sweeps("attach", "any", "--address", nodes.address, environment=bare)
    assert missing.returncode == 2
    assert f"{nodes.address} wants a token. Put the cluster's token into ~/.ray/auth_token" in missing.stderr
    wrong = nodes.sweeps("attach", "any", "--address", nodes.address, environment={**bare, "RAY_AUTH_TOKEN": "0" * 64})
    assert wrong.returncode == 2
    assert "does not accept this token" in wrong.stderr
    unknown = nodes.sweeps("attach", "any", "--address", nodes.address)
    assert unknown.returncode == 2
    assert "no job of a sweep 'any' is known to" in unknown.stderr
