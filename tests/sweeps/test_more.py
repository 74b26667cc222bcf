"""Asking an existing sweep for more: trials, hours, failures again, a trial trained further. No Ray: what is asked stands in
the study, and the study is driven directly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from sweeps import continuation, more
from sweeps import ledger as ledger_module
from sweeps import study as study_module
from sweeps.errors import LedgerError, SweepError
from sweeps.ledger import CONTINUES, EPOCHS, RETRIES, Ledger, read_history
from sweeps.overview import overview

FIFO = "search: {trials: 3, seed: 3}\nstopping: {scheduler: fifo}\n"
ASHA = "search: {trials: 3, seed: 3}\nstopping: {scheduler: asha, grace_epochs: 1, reduction_factor: 3}\n"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """`go_on` without what comes after the question: 0 as the exit status."""

    def go_on(ledger, console, ask):
        with ledger.lock():
            ask(ledger.space())
        return 0

    monkeypatch.setattr(more, "go_on", go_on)


def stored(ledger):
    return {trial.number: trial for trial in ledger.study().get_trials()}


def failing(study, errors):
    for error in errors:
        number = study.propose()["number"]
        study.begin(number)
        study.fail(number, {"error": error})


def test_extend_gives_trials_and_hours(make_ledger, console):
    ledger = make_ledger(FIFO + "budget: {hours: 1.5}\n")
    assert more.extend("test", "+2", "+0.5", ledger.root, console) == 0
    space = ledger.space()
    assert (space.search.trials, space.budget.hours) == (5, 2.0)
    assert console.file.getvalue() == "test: 3 → 5 trials, 1.5 → 2 hours.\n"
    more.extend("test", None, "4", ledger.root, console)
    assert (ledger.space().search.trials, ledger.space().budget.hours) == (5, 4.0)


@pytest.mark.parametrize(
    ("trials", "hours", "message"),
    [
        (None, None, "say by how much"),
        (None, "x", r"--hours 'x': expected \+N"),
        (None, "1", "has a budget of 1 hours already"),
        (None, "nan", "expected"),
        (None, "inf", "expected"),
        ("+1.5", None, "expected"),
    ],
)
def test_extend_asks_for_more(make_ledger, console, trials, hours, message):
    ledger = make_ledger(FIFO + "budget: {hours: 1}\n")
    with pytest.raises(SweepError, match=message):
        more.extend("test", trials, hours, ledger.root, console)
    assert ledger.space().search.trials == 3


def test_hours_need_a_budget(make_ledger, console):
    with pytest.raises(SweepError, match="has no budget of hours"):
        more.extend("test", None, "+1", make_ledger(FIFO).root, console)


def test_only_the_failed_are_retried_by_kind_and_once(make_ledger, open_study, run_trial, report_epoch, console):
    ledger = make_ledger(FIFO.replace("trials: 3", "trials: 4"))
    study = open_study(ledger)
    failing(study, ["MemoryError: ", "ValueError: no"])
    run_trial(study, [0.5])
    study.propose()
    report_epoch(study, 3, 1, float("inf"))
    assert study.complete
    more.retry("test", "oom", ledger.root, console)
    more.retry("test", "oom", ledger.root, console)  # it is asked for already
    assert console.file.getvalue().splitlines() == ["test: 1 trials are run again: 0 (oom).", "test: no oom trial to retry."]
    study = open_study(ledger)
    assert (study.target, study.complete) == (5, False)
    assert run_trial(study, [0.6]) == 4
    trials = stored(ledger)
    assert trials[4].user_attrs[RETRIES] == 0
    assert trials[4].params == trials[0].params
    seeds = [next(text for text in trials[number].user_attrs["overrides"] if text.startswith("seed=")) for number in (0, 4)]
    assert seeds[0] != seeds[1]
    more.retry("test", None, ledger.root, console)  # 1 and 3; 0 was retried successfully
    assert console.file.getvalue().splitlines()[-1] == "test: 2 trials are run again: 1 (error), 3 (non_finite)."
    study = open_study(ledger)
    failing(study, ["ValueError: no"])  # 5 retries 1
    run_trial(study, [0.1])
    assert study.complete
    more.retry("test", None, ledger.root, console)
    assert console.file.getvalue().splitlines()[-1] == "test: 1 trials are run again: 5 (error)."
    assert overview(ledger).target == 8
    assert {trial.number: trial.user_attrs[RETRIES] for trial in stored(ledger).values() if RETRIES in trial.user_attrs} == {
        4: 0,
        5: 1,
        6: 3,
        7: 5,
    }


def test_an_unknown_kind_lists_the_known(make_ledger, console):
    with pytest.raises(SweepError, match=r"'oon'.* Did you mean oom\? Accepted: oom, non_finite, exploding, dead, error, lost"):
        more.retry("test", "oon", make_ledger(FIFO).root, console)


def test_a_driver_killed_while_it_proposes_a_retry_loses_and_doubles_nothing(make_ledger, open_study, run_trial, console):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    failing(study, ["ValueError: 1", "TypeError: 2"])
    run_trial(study, [0.5])
    more.retry("test", None, ledger.root, console)
    killed = ledger.study().ask()  # killed before it had written the overrides down
    assert killed.number == 3
    continuation.enqueue_again(ledger.study(), stored(ledger)[3])  # and killed again, in the middle of mending that
    study = open_study(ledger)
    assert study.target == 5
    while not study.complete:
        run_trial(study, [0.5])
    trials = stored(ledger)
    ran = [trial for trial in trials.values() if trial.user_attrs["verdict"]["verdict"] != "rejected"]
    assert [trial.user_attrs.get(RETRIES) for trial in ran] == [None, None, None, 1, 0]
    assert trials[3].state == TrialState.FAIL


def test_a_trial_trained_further_is_a_new_one_with_the_old_one_s_past(ended, open_study, report_epoch, console):
    before = stored(ended)[0]
    more.continue_trial("test", 0, "+2", ended.root, console)
    more.continue_trial("test", 0, "4", ended.root, console)
    assert console.file.getvalue().splitlines() == [
        "test: trial 0 is trained further as a new trial, from epoch 2 to 4.",
        "trial 3 continues trial 0 to epoch 4 already.",
    ]
    study = open_study(ended)
    assert (study.target, study.complete) == (4, False)
    assignment = study.propose()
    assert assignment["number"] == 3
    recorded = before.user_attrs["overrides"]
    assert set(assignment["overrides"]) == {*recorded, "trainer.max_epochs=4"}
    files = ended.trial(3)
    assert (files.directory / "tensorboard" / "events").read_bytes() == b"events"
    assert not (files.directory / "metrics.json").exists()
    state = torch.load(files.last_checkpoint, weights_only=True)["callbacks"]["ModelCheckpoint{'a': 1}"]
    here = str(files.checkpoints.resolve())
    assert (state["dirpath"], state["best_model_path"]) == (here, f"{here}/best.ckpt")
    assert list(state["best_k_models"]) == [f"{here}/best.ckpt"]
    study.begin(3)
    assert study.running == {3: 2}
    report_epoch(study, 3, 2, 0.4, max_epochs=4, repeated=True)
    report_epoch(study, 3, 3, 0.45, max_epochs=4)
    study = open_study(ended)  # killed in the middle
    assert study.propose() == assignment
    report_epoch(study, 3, 3, 0.45, max_epochs=4, repeated=True)
    report_epoch(study, 3, 4, 0.3, max_epochs=4)
    study.finish(3, {"metrics": {}, "seconds": 4.0})
    trial = stored(ended)[3]
    assert trial.user_attrs[CONTINUES] == 0
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)  # of the epochs that it has inherited
    assert trial.intermediate_values == {1: 0.5, 2: 0.4, 3: 0.45, 4: 0.3}
    assert [row["epoch"] for row in read_history(files.history)] == [1, 2, 3, 4]
    assert [row["verdict"] for row in read_history(files.history)][:3] == ["", "", ""]
    assert json.dumps(stored(ended)[0].user_attrs) == json.dumps(before.user_attrs)
    assert open_study(ended).complete


def test_nobody_ranks_a_trial_that_a_person_has_asked_for(make_ledger, open_study, report_epoch, checkpoint, console):
    ledger = make_ledger(ASHA)
    study = open_study(ledger)
    for value in (0.5, 0.6):
        number = study.propose()["number"]
        report_epoch(study, number, 1, value)
        study.finish(number, {"metrics": {}, "seconds": 1.0})
    study.propose()
    assert report_epoch(study, 2, 1, 0.1).verdict == "outranked"
    checkpoint(ledger.trial(2), 1)
    more.continue_trial("test", 2, "3", ledger.root, console)
    study = open_study(ledger)
    study.propose()
    assert report_epoch(study, 3, 1, 0.1, repeated=True) is None
    assert report_epoch(study, 3, 2, 0.1) is None
    study = open_study(ledger)
    study.propose()
    assert report_epoch(study, 3, 3, float("nan")).verdict == "broken"  # but what is not finite ends in any case


def test_a_continuation_whose_driver_was_killed_is_begun_again(ended, open_study, console):
    more.continue_trial("test", 0, "4", ended.root, console)
    trial = ended.study().ask()
    continuation.begin(ended, ended.space(), trial)  # killed before the overrides were written down
    study = open_study(ended)
    assignment = study.propose()
    assert assignment["number"] == 4
    assert stored(ended)[4].user_attrs[CONTINUES] == 0
    assert stored(ended)[4].intermediate_values == {1: 0.5, 2: 0.4}
    assert study.target == 4


def test_a_continuation_from_a_checkpoint_damaged_meanwhile_fails_and_the_sweep_goes_on(ended, open_study, console):
    more.continue_trial("test", 0, "4", ended.root, console)
    ended.trial(0).last_checkpoint.write_bytes(b"no checkpoint")
    study = open_study(ended)
    assert study.propose() is None
    assert study.complete
    verdict = stored(ended)[3].user_attrs["verdict"]
    assert (verdict["verdict"], verdict["failure"]) == ("failed", "error")
    assert "last.ckpt cannot be read as a checkpoint" in verdict["reason"]


@pytest.mark.parametrize(
    ("number", "epochs", "error", "message"),
    [
        (9, "4", SweepError, r"--trial 9: it does not exist\. Trials of 'test' that can be trained further: 0, 1, 2\."),
        (0, "2", SweepError, "--epochs 2: trial 0 of the sweep 'test' has 2 epochs already"),
        (0, "many", SweepError, r"--epochs 'many': expected \+N"),
        (1, "4", LedgerError, "trial cannot be continued: no checkpoint at .*last.ckpt"),
    ],
)
def test_what_cannot_be_continued_is_refused(ended, console, number, epochs, error, message):
    with pytest.raises(error, match=message):
        more.continue_trial("test", number, epochs, ended.root, console)
    assert len(stored(ended)) == 3


def test_a_failed_trial_is_not_continued_but_retried(make_ledger, open_study, console):
    ledger = make_ledger(FIFO)
    failing(open_study(ledger), ["ValueError: no"])
    with pytest.raises(
        SweepError, match=r"it has ended as failed; one that failed is run again by `make retry NAME=test RUNS="
    ):
        more.continue_trial("test", 0, "4", ledger.root, console)


class Killed(BaseException):
    """What stands for SIGKILL."""


@pytest.fixture
def killed_at(monkeypatch):
    """A function: `limit` → a counter of writes to the study and the files; the one with this number (from 1) kills instead."""
    count = {"writes": 0, "limit": None}

    def guard(owner, name):
        original = getattr(owner, name)

        def write(*arguments, **keywords):
            count["writes"] += 1
            if count["writes"] == count["limit"]:
                raise Killed(name)
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, write)

    for name in ("create_new_trial", "set_trial_user_attr", "set_trial_intermediate_value", "set_trial_state_values"):
        guard(RDBStorage, name)
    for module in (ledger_module, study_module):
        guard(module, "write_atomically")
    for name in ("rename", "mkdir"):
        guard(Path, name)

    def arm(limit):
        count.update(writes=0, limit=limit)
        return count

    return arm


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("storage", ["sqlite", pytest.param("journal", marks=pytest.mark.slow)], indirect=True)
def test_a_kill_while_more_is_asked_for_or_run_changes_no_outcome(
    make_ledger, open_study, run_trial, report_epoch, checkpoint, console, tmp_path, killed_at, every, storage
):
    """The same commands typed again after a kill before any write: what was retried or continued is so once."""
    template = make_ledger(FIFO)
    study = open_study(template)
    run_trial(study, [0.5, 0.4])
    failing(study, ["ValueError: no"])
    run_trial(study, [0.1, 0.2])
    checkpoint(template.trial(0), 2)

    def act(root):
        ledger = Ledger("test", root)
        more.retry("test", None, root, console)
        more.continue_trial("test", 0, "3", root, console)
        study = open_study(ledger)
        while proposal := study.propose():
            number = proposal["number"]
            study.begin(number)
            further = "trainer.max_epochs=3" in proposal["overrides"]
            for epoch in (2, 3) if further else (1, 2):
                report_epoch(study, number, epoch, 0.1 * epoch, max_epochs=3 if further else 2, repeated=further and epoch == 2)
            study.finish(number, {"metrics": {}, "seconds": 2.0})

    def outcome(root):
        ledger = Ledger("test", root)
        return sorted(
            (
                str({name: trial.user_attrs.get(name) for name in (RETRIES, CONTINUES, EPOCHS, "epochs", "verdict")}),
                str((trial.state.name, trial.value, trial.params, trial.intermediate_values)),
                [row["epoch"] for row in read_history(ledger.trial(trial.number).history)],
            )
            for trial in ledger.study().get_trials()
            if trial.user_attrs["verdict"]["verdict"] != "rejected"
        )

    def copy(name):
        shutil.copytree(template.root, tmp_path / name)
        return tmp_path / name

    count = killed_at(None)
    act(copy("reference"))
    writes, expected = count["writes"], outcome(tmp_path / "reference")
    assert len(expected) == 5
    for limit in range(1, writes + 1, every):
        root = copy(f"killed{limit}")
        killed_at(limit)
        with pytest.raises(Killed) as killed:
            act(root)
        killed_at(None)
        act(root)
        assert outcome(root) == expected, f"killed before write {limit} of {writes}: {killed.value}"
