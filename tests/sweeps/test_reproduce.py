"""A recorded trial trained again: the same bits, or which metrics differ by how much, and what has changed since."""

from __future__ import annotations

import math
import os

import pytest

from sweeps import manifest
from sweeps.creation import create_ledger
from sweeps.errors import SweepError
from sweeps.ledger import Ledger
from sweeps.process import TrialProcess
from sweeps.reproduce import changed, compare, reproduce
from sweeps.space import load_space
from sweeps.study import SweepStudy

SPACE = """
description: A test's space.
trial:
  - experiment=vimh
  - model=vimh_mlp
  - "data.data_dir='{data}'"
  - data.generate=null
  - logger=none
  - trainer.max_epochs=3
objective: {{metric: val/avg_acc, mode: max}}
space:
  model.optimizer.lr: {{log_uniform: [1.0e-4, 1.0e-2]}}
search: {{trials: 1}}
stopping: {{scheduler: fifo}}
"""


@pytest.fixture
def ledger(tmp_path, vimh_dataset) -> Ledger:
    """A sweep of one trial that has trained two of its three epochs."""
    (tmp_path / "mine.yaml").write_text(SPACE.format(data=vimh_dataset))
    ledger = Ledger("mine", tmp_path / "runs")
    create_ledger(ledger, load_space(tmp_path / "mine.yaml"))
    manifest.open_session(ledger)
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 0)
    process = TrialProcess(threads=1)
    try:
        process.start(study.propose())
        for _ in range(2):
            study.report(0, process.next())
    finally:
        process.close()
    return ledger


@pytest.mark.slow
def test_a_trial_that_was_ended_early_is_reproduced_to_the_bit_and_a_changed_history_is_not(ledger, console):
    assert reproduce(ledger, 0, console) == 0
    printed = console.file.getvalue()
    assert "trial 0 of mine is trained again for 2 epochs" in printed
    assert "metrics over 2 epochs, to the bit" in printed
    history = ledger.trial(0).history
    header, first, second = history.read_text().splitlines()
    column = header.split(",").index("train/loss")
    cells = second.split(",")
    cells[column] = repr(math.nextafter(float(cells[column]), math.inf))
    history.write_text("\n".join([header, first, ",".join(cells), ""]))
    assert reproduce(ledger, 0, console) == 1
    last = console.file.getvalue().splitlines()[-2:]
    assert last[0].startswith("not reproduced: 1 of ")
    assert last[1].startswith("  train/loss: ")
    assert last[1].endswith(", from epoch 2")


def test_a_trial_without_a_history_cannot_be_compared(ledger, console):
    ledger.trial(0).history.unlink()
    with pytest.raises(SweepError, match="has no history"):
        reproduce(ledger, 0, console)


def test_what_differs_is_told_by_its_largest_difference_and_its_first_epoch():
    recorded = [{"epoch": epoch, "seconds": 1.0, "a": 1.0, "b": math.nan, "c": 0.0, "verdict": ""} for epoch in (1, 2, 3)]
    again = [{"epoch": epoch, "a": 1.0, "b": math.nan, "c": 0.1 * epoch if epoch > 1 else 0.0} for epoch in (1, 2, 3)]
    (found,) = compare(recorded, again)
    assert (found.metric, found.first) == ("c", 2)
    assert found.largest == pytest.approx(0.3)
    gone = compare(recorded, again[:2])
    assert {each.metric: each.largest for each in gone} == {"a": math.inf, "b": math.inf, "c": math.inf}
    assert compare(recorded, [{**row, "a": math.inf} for row in recorded])[0].largest == math.inf


def test_what_has_changed_since_is_listed():
    now = manifest.session([])
    assert changed(now, manifest.session([])) == []
    before = {**now, "versions": {**now["versions"], "torch": "2.0"}, "code": {**now["code"], "commit": "abc", "diff": "x"}}
    commit = now["code"]["commit"]
    assert changed(before, now) == [
        f"code commit: abc → {commit}",
        "code diff: differs",
        f"version of torch: 2.0 → {now['versions']['torch']}",
    ]
    other = {"machine": {**now["machine"], "node": "elsewhere"}}
    assert changed(other, now) == [f"machine's node: elsewhere → {os.uname().nodename}"]
