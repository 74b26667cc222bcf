"""One quota over a sweep's checkpoints: what stays, what goes, when, and what is said of what went."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from lhtx.checkpoints import require_checkpoint
from lhtx.errors import CheckpointError
from sweeps import edits, more, quota
from sweeps.errors import LedgerError, SpaceError
from sweeps.housekeeping import beside
from sweeps.ledger import CONTINUES, Ledger
from sweeps.notify import Notification
from sweeps.outputs import KeepCheckpoints
from sweeps.quota import BEST, LAST, Stock, kept
from sweeps.sizes import size_text
from sweeps.status import show_status

BOTH = frozenset({BEST, LAST})
SPACE = "search: {trials: 4, seed: 3, sampler: random}\nstopping: {scheduler: fifo}\nkeep_checkpoints: best 2, last 1\n"


def trial(number, values=None, state="COMPLETE", minute=None, **attributes):
    found = create_trial(
        state=TrialState.COMPLETE if state == "COMPLETE" else TrialState.FAIL,
        values=values if state == "COMPLETE" else None,
        user_attrs=attributes,
    )
    found.number, found.state = number, TrialState[state]
    ended = datetime(2026, 1, 1) + timedelta(minutes=number if minute is None else minute)
    found.datetime_complete = ended if found.state.is_finished() else None
    return found


def all_of(trials):
    return {each.number: BOTH for each in trials}


def names(keeps, name):
    return {number for number, found in keeps.items() if name in found}


def test_the_best_by_value_and_the_last_by_time_stay():
    trials = [trial(0, [0.5]), trial(1, [0.9], minute=9), trial(2, [0.7]), trial(3, state="FAIL"), trial(4, state="RUNNING")]
    keeps = kept(KeepCheckpoints(best=2, last=1), ("max",), trials, all_of(trials))
    assert names(keeps, BEST) == {1, 2, 4}
    assert names(keeps, LAST) == {1, 4}
    assert names(kept(KeepCheckpoints(best=1), ("min",), trials, all_of(trials)), BEST) == {0, 4}
    assert names(kept(KeepCheckpoints(best=1), ("min",), trials, all_of(trials)), LAST) == {4}


def test_of_several_objectives_the_pareto_front_comes_first():
    trials = [trial(0, [0.9, 5.0]), trial(1, [0.8, 9.0]), trial(2, [0.1, 1.0]), trial(3, [0.85, 6.0])]
    assert names(kept(KeepCheckpoints(best=2), ("max", "min"), trials, all_of(trials)), BEST) == {0, 2}
    assert names(kept(KeepCheckpoints(best=3), ("max", "min"), trials, all_of(trials)), BEST) == {0, 2, 3}


def test_of_several_objectives_the_winner_by_the_first_stays():
    trials = [trial(0, [0.1, 1.0]), trial(1, [0.9, 5.0]), trial(2, [0.5, 2.0])]
    assert names(kept(KeepCheckpoints(best=1), ("max", "min"), trials, all_of(trials)), BEST) == {1}


@pytest.mark.parametrize(
    ("attribute", "left"),
    [("continues", set()), ("exploits", set()), ("repeats", {BEST})],  # a mean over seeds comes before a single seed
)
def test_what_another_trial_is_to_start_from_stays_until_that_has_ended(attribute, left):
    trials = [trial(0, [0.1]), trial(1, [0.9]), trial(2, state="WAITING", **{attribute: 0})]
    assert kept(KeepCheckpoints(best=1), ("max",), trials, all_of(trials))[0] == BOTH
    trials[2] = trial(2, [0.2], **{attribute: 0})
    assert kept(KeepCheckpoints(best=1), ("max",), trials, all_of(trials))[0] == left


def test_seeds_whose_checkpoints_went_count_for_the_mean_all_the_same():
    trials = [trial(0, [0.9]), trial(1, [0.8]), trial(2, [0.1], repeats=0), trial(3, [0.8], repeats=1)]
    present = {0: BOTH, 1: BOTH, 2: BOTH, 3: frozenset({LAST})}
    assert names(kept(KeepCheckpoints(best=1), ("max",), trials, present), BEST) == {1}
    assert names(kept(KeepCheckpoints(best=1), ("max",), trials, {**present, 1: frozenset(), 3: BOTH}), BEST) == {3}


def test_a_configuration_that_ran_with_several_seeds_is_ranked_by_its_mean():
    trials = [trial(0, [0.5]), trial(1, [0.6], repeats=0), trial(2, [0.9]), trial(3, [0.8])]
    assert names(kept(KeepCheckpoints(best=2), ("max",), trials, all_of(trials)), BEST) == {0, 2}


@given(
    values=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 9), st.sampled_from(["COMPLETE", "FAIL", "RUNNING"])), min_size=1
    ),
    best=st.integers(1, 4),
    last=st.integers(1, 4),
)
def test_whenever_it_is_enforced_the_same_stays_in_the_end(values, best, last):
    """Enforced after each end, at the end alone, or twice: a kill in between leaves too many, never too few."""
    wanted = KeepCheckpoints(best=best, last=last)
    trials = [trial(number, [float(value)], state, minute) for number, (value, minute, state) in enumerate(values)]
    late = kept(wanted, ("max",), trials, all_of(trials))
    present = {}
    for count, each in enumerate(trials, start=1):
        present[each.number] = BOTH
        present = kept(wanted, ("max",), trials[:count], present)
    assert names(present, BEST) == names(late, BEST)
    assert kept(wanted, ("max",), trials, present) == present == kept(wanted, ("max",), trials, present)
    ended = {each.number for each in trials if each.state.is_finished()}
    complete = [each for each in trials if each.state == TrialState.COMPLETE]
    assert len(names(present, BEST) & ended) == min(best, len(complete))
    assert len(names(present, LAST) & ended) == min(last, len(ended))
    assert all(present[number] == BOTH for number in present.keys() - ended)


def end_trial(ledger, study, report_epoch, checkpoint, value):
    number = study.propose()["number"]
    study.begin(number)
    report_epoch(study, number, 1, value, max_epochs=1)
    checkpoint(ledger.trial(number), 1)
    study.finish(number, {"metrics": {}, "seconds": 1.0})
    return number


def test_it_is_enforced_on_each_end_and_told_by_status(make_ledger, open_study, report_epoch, checkpoint, console):
    ledger = make_ledger(SPACE)
    study = open_study(ledger)
    with beside(study, console, Notification()):
        for value, best, last in ((0.5, (0,), (0,)), (0.7, (0, 1), (1,)), (0.2, (0, 1), (2,)), (0.6, (1, 3), (3,))):
            end_trial(ledger, study, report_epoch, checkpoint, value)
            assert (Stock.of(ledger).best, Stock.of(ledger).last) == (best, last)
    size = sum(path.stat().st_size for path in ledger.checkpoint_files())
    assert Stock.of(ledger).size == size
    show_status(ledger, console)
    assert f"  3 checkpoints, {size_text(size)}: best of 1, 3; last of 3" in console.file.getvalue()


class Killed(BaseException):
    """What stands for SIGKILL."""


def test_a_kill_in_between_leaves_too_many_and_the_next_driver_removes_them(
    make_ledger, open_study, report_epoch, checkpoint, console, monkeypatch
):
    ledger = make_ledger(SPACE)
    study = open_study(ledger)

    def killed(*arguments):
        raise Killed

    def run():
        with beside(study, console, Notification()):
            for value in (0.5, 0.7, 0.2):
                end_trial(ledger, study, report_epoch, checkpoint, value)
            monkeypatch.setattr(quota, "write_atomically", killed)
            end_trial(ledger, study, report_epoch, checkpoint, 0.6)

    with pytest.raises(Killed):
        run()
    monkeypatch.undo()
    assert Stock.of(ledger).best == (0, 1, 3)
    assert ledger.study().get_trials()[3].state == TrialState.COMPLETE
    with beside(open_study(ledger), console, Notification()):
        assert (Stock.of(ledger).best, Stock.of(ledger).last) == ((1, 3), (3,))


def test_what_asks_for_a_checkpoint_that_went_is_told_why_and_which_are_left(
    make_ledger, open_study, report_epoch, checkpoint, console, monkeypatch
):
    ledger = make_ledger(SPACE)
    study = open_study(ledger)
    with beside(study, console, Notification()):
        for value in (0.5, 0.7):
            end_trial(ledger, study, report_epoch, checkpoint, value)
    monkeypatch.setattr(more, "go_on", lambda ledger, console, ask: ask(ledger.space()) and 0)
    gone = r"The quota of the sweep test \(keep_checkpoints: best 2, last 1\) has removed checkpoints of this trial"
    with pytest.raises(LedgerError, match=rf"Trial 0 .* cannot be trained further. {gone}.*best of 0, 1; last of 1"):
        more.continue_trial("test", 0, "+1", ledger.root, console)
    with pytest.raises(CheckpointError, match=rf"no checkpoint at .*In that directory: .*best.ckpt. {gone}"):
        require_checkpoint(ledger.trial(0).last_checkpoint)
    assert more.continue_trial("test", 1, "+1", ledger.root, console) == 0
    asked = [each for each in ledger.study().get_trials() if CONTINUES in each.user_attrs]
    assert [each.user_attrs[CONTINUES] for each in asked] == [1]


@pytest.mark.parametrize(("text", "expected"), [("best 5, last 1", (5, 1)), ("last 2", (None, 2)), ("{best: 3}", (3, None))])
def test_both_forms_are_read_and_written_back(make_space, text, expected):
    space = make_space(f"keep_checkpoints: {text}\n")
    found = space.outputs.keep_checkpoints
    assert (found.best, found.last) == expected
    assert make_space(f"keep_checkpoints: {found}\n") == space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best five", "found 'best five': expected `best 5`, `last 1` or `best 5, last 1`"),
        ("best 1, best 2", "expected `best 5`"),
        ("{}", "says nothing: expected best, last or both"),
        ("best 0", "found 0: input should be greater than or equal to 1"),
        ("{worst: 1}", "unknown key. Accepted: best, last"),
        ("[1]", "a mapping with some of best, last is expected"),
    ],
)
def test_what_is_wrong_with_it_is_said(make_space, text, message):
    with pytest.raises(SpaceError) as refused:
        make_space(f"keep_checkpoints: {text}\n")
    assert "test.yaml:7: keep_checkpoints" in str(refused.value)
    assert message in str(refused.value)


def test_outputs_may_be_given_changed_and_taken_away_while_a_sweep_lives(make_ledger, make_space, console):
    ledger = make_ledger(SPACE + "results: s3://bucket/a\n")
    make_space(SPACE.replace("best 2", "best 3") + "notify: {command: 'true'}\n")
    outputs = edits.settle(ledger, console).outputs
    assert (outputs.keep_checkpoints.best, outputs.results, outputs.notify.command) == (3, None, "true")
    said = console.file.getvalue()
    assert "keep_checkpoints: best 2, last 1 → best 3, last 1" in said
    assert "results.url: s3://bucket/a → nothing" in said


def test_without_a_quota_all_stay(ended, open_study, console):
    with beside(open_study(ended), console, Notification()):
        pass
    assert quota.checkpoints(ended) == {0: BOTH}
    quota.enforce(ended, SimpleNamespace(outputs=SimpleNamespace(keep_checkpoints=None)), [])
    assert quota.checkpoints(Ledger("test", ended.root)) == {0: BOTH}
