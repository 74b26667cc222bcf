"""`on_oom`: a trial that ran out of memory is run once more with half the batch, if the space has such a trial."""

from __future__ import annotations

import pytest

from sweeps import memory, more
from sweeps.attributes import HALVED, RETRIES

OOM = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\nand more lines"
SPACE = """
description: A test's space.
trial: [experiment=vimh]
objective: {metric: val/avg_acc, mode: max}
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}
  data.batch_size: BATCH
search: {trials: TRIALS, seed: 3, sampler: random, start_with: [{data.batch_size: FIRST}]}
stopping: {scheduler: fifo}
"""


@pytest.fixture
def sweep(make_space, tmp_path):
    """A function: how the batch is searched, the first trial's, more of a space → a ledger in which nothing has run."""
    from sweeps.creation import create_ledger
    from sweeps.ledger import Ledger

    def make(batch="{power_of_two: [32, 256]}", first=256, rest="", trials=2):
        text = SPACE.replace("BATCH", batch).replace("FIRST", str(first)).replace("TRIALS", str(trials)) + rest
        ledger = Ledger("test", tmp_path / "runs")
        create_ledger(ledger, make_space(text, base=False))
        return ledger

    return make


def fail(study, error=OOM):
    """The next trial fails; its number."""
    number = study.propose()["number"]
    study.begin(number)
    study.fail(number, {"error": error})
    return number


def reason(study, number):
    return study.study.get_trials()[number].user_attrs["verdict"]["reason"]


def test_it_is_run_once_more_with_half_the_batch_and_never_with_a_quarter(sweep, open_study, run_trial):
    study = open_study(sweep())
    assert fail(study) == 0
    assert study.target == 3
    assert reason(study, 0) == (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB (run once more with data.batch_size=128)\nand more lines"
    )
    assert fail(study) == 1
    first, again, *_ = study.study.get_trials()
    assert again.user_attrs[RETRIES] == 0
    assert again.user_attrs[HALVED]
    assert again.params == {**first.params, "data.batch_size": 128}
    assert "data.batch_size=128" in again.user_attrs["overrides"]
    assert "(not run again with half the batch: that has been done)" in reason(study, 1)
    run_trial(study, [0.5])
    assert study.complete
    assert study.ended == {"failed": 2, "finished": 1}


@pytest.mark.parametrize(
    ("batch", "first", "half"),
    [
        ("[32, 64]", 64, 32),
        ("{int: [10, 33]}", 33, 16),
        ("{int: [32, 128], step: 32}", 128, 64),
        ("{log_int: [1, 100]}", 2, 1),
    ],
)
def test_wherever_half_of_it_is_in_the_space(sweep, open_study, batch, first, half):
    study = open_study(sweep(batch, first))
    fail(study)
    assert study.study.get_trials()[1].system_attrs["fixed_params"]["data.batch_size"] == half


@pytest.mark.parametrize(
    ("batch", "first", "rest", "why"),
    [
        ("{power_of_two: [32, 256]}", 32, "", "16 is not in the space: 16 is not among the values. Accepted: 32, 64, 128, 256"),
        ("{int: [32, 128], step: 32}", 96, "", "48 is not in the space"),
        ("{uniform: [16, 64], step: 16}", 64, "", "data.batch_size is 64.0, no whole number"),
        ("[32, 64]", 64, "constraints: [data.batch_size > 40]\n", "the constraint data.batch_size > 40 (data.batch_size = 32)"),
    ],
)
def test_what_the_space_does_not_hold_is_not_run_and_the_trial_says_why(sweep, open_study, batch, first, rest, why):
    study = open_study(sweep(batch, first, rest))
    fail(study)
    assert study.target == 2
    assert f"(not run again with half the batch: {why}" in reason(study, 0)


def test_a_batch_that_is_not_searched_is_not_halved(make_ledger, open_study):
    study = open_study(make_ledger("search: {trials: 2}\n"))
    fail(study)
    assert study.target == 2
    assert "(not run again with half the batch: data.batch_size is not searched)" in reason(study, 0)


def test_on_oom_fail_leaves_it_at_that(sweep, open_study):
    study = open_study(sweep(rest="resources: {on_oom: fail}\n"))
    fail(study)
    assert study.target == 2
    assert reason(study, 0) == OOM


def test_other_failures_are_not_run_again(sweep, open_study):
    study = open_study(sweep())
    fail(study, "RuntimeError: no")
    assert (study.target, reason(study, 0)) == (2, "RuntimeError: no")


def test_a_setting_that_another_trial_has_is_not_run_twice(make_space, tmp_path, open_study, run_trial):
    from sweeps.creation import create_ledger
    from sweeps.ledger import Ledger

    text = SPACE.replace("  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}\n", "").replace("BATCH", "[32, 64]")
    ledger = Ledger("test", tmp_path / "runs")
    text = text.replace("[{data.batch_size: FIRST}]", "[{data.batch_size: 32}, {data.batch_size: 64}]")
    create_ledger(ledger, make_space(text.replace("TRIALS", "2"), base=False))
    study = open_study(ledger)
    run_trial(study, [0.5])
    fail(study)
    assert "(not run again with half the batch: that is trial 0)" in reason(study, 1)
    assert study.complete


def test_retries_come_before_the_sweep_is_given_up(sweep, open_study):
    study = open_study(sweep("{power_of_two: [1, 256]}", trials=9))
    seen = []
    while proposal := study.propose():
        seen.append(proposal["number"])
        study.begin(seen[-1])
        study.fail(seen[-1], {"error": OOM})
    trials = study.study.get_trials()
    retried = [number for number in seen if HALVED in trials[number].user_attrs]
    # Three that were not to be run again, all of them for one reason: only then is there no hope.
    assert study.hopeless is not None
    assert len(seen) == 6
    assert retried == [1, 3, 5]


def test_retry_by_hand_does_not_double_it_and_is_not_halved_again(sweep, open_study, console):
    ledger = sweep()
    study = open_study(ledger)
    fail(study)
    trials = study.study.get_trials()
    assert more.retryable(trials, "oom") == []
    fail(study)
    trials = study.study.get_trials()
    assert [trial.number for trial in more.retryable(trials, "oom")] == [1]
    study.study.enqueue_trial(trials[1].params, user_attrs={RETRIES: 1})
    again = open_study(ledger)
    assert again.target == 4
    assert fail(again) == 2
    assert "that has been done" in reason(again, 2)
    assert list(memory.due(again.space, again.study.get_trials())) == []


def test_a_continuation_that_ran_out_of_memory_is_not_halved(ended, open_study, console):
    study = ended.study()
    study.enqueue_trial(study.get_trials()[0].params, user_attrs={"continues": 0, "to_epochs": 3})
    again = open_study(ended)
    fail(again)
    assert "it follows another trial, whose batch it shares" in reason(again, 3)
    assert again.complete


def test_a_second_run_that_the_constraints_refuse_leaves_the_target_as_a_resumed_driver_sees_it(
    make_ledger, open_study, run_trial
):
    ledger = make_ledger(
        "  data.batch_size: {power_of_two: [32, 64]}\n"
        "  data.target_width: {uniform: [1.0, 2.0], when: {data.batch_size: 32}}\n"
        "constraints: [data.batch_size > 32 or data.target_width > 3]\n"
        "search: {trials: 2, seed: 3, sampler: random, start_with: [{data.batch_size: 64}]}\nstopping: {scheduler: fifo}\n"
    )
    study = open_study(ledger)
    study.begin(study.propose()["number"])
    study.fail(0, {"error": "MemoryError: "})
    assert study.target == 3
    run_trial(study, [0.5])
    assert (study.target, study.complete) == (2, True)
    assert (open_study(ledger).target, study.propose()) == (2, None)
