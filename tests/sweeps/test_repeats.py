"""Configurations over several seeds: which trials are repeated and when, what ends a repeat, and who is best then."""

from __future__ import annotations

import shutil

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from sweeps.attributes import INSTEAD_OF, REPEATS, RETRIES
from sweeps.creation import create_ledger
from sweeps.errors import SpaceError
from sweeps.ledger import Ledger
from sweeps.more import _repeated, retryable
from sweeps.overview import overview
from sweeps.promote import promote
from sweeps.proposals import trial_seed
from sweeps.space import dump

ALL = "search: {trials: 2, seed: 3, repeats: {seeds: 3}}\nstopping: {scheduler: fifo}\n"
TOP = "search: {trials: 4, seed: 3, repeats: {seeds: 3, top: 2}}\nstopping: {scheduler: fifo}\n"
VALUES = {0: 0.5, 1: 0.9, 2: 0.7, 3: 0.6}


@pytest.fixture
def run_all(run_trial):
    """A function: a study, and the value of each trial → runs what is left; the numbers in the order in which they ran."""

    def run(study, values):
        ran = []
        while not study.complete:
            ran.append(run_trial(study, [values[len(study.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))]]))
        return ran

    return run


def repeats_of(study) -> list[int | None]:
    return [trial.user_attrs.get(REPEATS) for trial in study.study.get_trials()]


def test_each_finished_trial_is_repeated_with_its_parameters_and_other_seeds(make_ledger, open_study, run_all):
    ledger = make_ledger(ALL)
    study = open_study(ledger)
    run_all(study, [0.5, 0.6, 0.7, 0.9, 0.1, 0.2])
    trials = study.study.get_trials()
    assert repeats_of(study) == [None, 0, 0, None, 3, 3]
    assert (study.target, study.ended) == (6, {"finished": 6})
    for trial in trials:
        source = trials[trial.user_attrs.get(REPEATS, trial.number)]
        assert trial.params == source.params
        seed = f"seed={trial_seed(3, trial.number)}"
        assert trial.user_attrs["overrides"] == [*source.user_attrs["overrides"][:-1], seed]
    assert study.found.winner.trials == (0, 1, 2)
    assert study.best == (0, pytest.approx(0.6))
    assert overview(ledger).best_text() == "best val/avg_acc 0.6 by mean over 3 seeds: trial 0"


def test_the_top_are_repeated_when_the_whole_search_has_ended(make_ledger, open_study, run_trial, run_all):
    study = open_study(make_ledger(TOP))
    numbers = [study.propose()["number"] for _ in range(4)]
    assert study.waiting, "repeats may follow"
    for number in numbers:
        study.begin(number)
        study.report(number, message(VALUES[number]))
        if number < 3:
            study.finish(number, {"metrics": {}, "seconds": 1.0})
            assert study.propose() is None
    study.finish(3, {"metrics": {}, "seconds": 1.0})
    assert (study.target, study.complete) == (8, False)
    assert repeats_of(study)[4:] == [1, 1, 2, 2]
    run_all(study, [0.0] * 4 + [0.5, 0.5, 0.7, 0.7])
    assert study.best == (2, pytest.approx(0.7)), "the best single value was luck"
    assert not study.waiting


def message(value: float, epoch: int = 1, max_epochs: int = 1) -> dict[str, object]:
    metrics = {"val/avg_acc": value, "train/loss": 1.0}
    report = {"epoch": epoch, "max_epochs": max_epochs, "parameters": 7, "seconds": 1.0}
    return {**report, "metrics": metrics, "repeated": False}


def test_after_an_extension_the_best_are_chosen_anew_and_earlier_repeats_stay(make_ledger, open_study, run_all):
    ledger = make_ledger(TOP)
    run_all(open_study(ledger), [0.5, 0.9, 0.7, 0.6, 0.9, 0.9, 0.7, 0.7])
    ledger.space_file.write_text(ledger.space_file.read_text().replace("trials: 4", "trials: 5"))
    study = open_study(ledger)
    assert study.target == 9
    run_all(study, [0] * 8 + [0.8, 0.8, 0.8])
    assert repeats_of(study) == [None] * 4 + [1, 1, 2, 2, None, 8, 8]
    assert [each.number for each in study.found.configurations if each.repeated] == [1, 2, 8]


def test_more_seeds_may_be_asked_for_later(make_ledger, open_study, run_all):
    ledger = make_ledger(ALL)
    run_all(open_study(ledger), [0.5] * 6)
    ledger.space_file.write_text(ledger.space_file.read_text().replace("seeds: 3", "seeds: 4"))
    study = open_study(ledger)
    run_all(study, [0.5] * 8)
    assert repeats_of(study) == [None, 0, 0, None, 3, 3, 0, 3]


def test_where_the_settings_run_out_the_search_has_ended_too(make_space, open_study, run_all, tmp_path):
    text = (
        "description: d\ntrial: [experiment=vimh]\nobjective: {metric: val/avg_acc, mode: max}\n"
        "space:\n  model: [vimh_mlp, vimh_cnn]\nsearch: {trials: 9, repeats: {seeds: 2, top: 1}}\nstopping: {scheduler: fifo}\n"
    )
    ledger = Ledger("finite", tmp_path / "runs")
    create_ledger(ledger, make_space(text, "finite", base=False))
    study = open_study(ledger)
    run_all(study, [0.5, 0.9, 0.8])
    assert (study.exhausted, study.ended) == (True, {"finished": 3})
    assert study.found.winner.values == (pytest.approx(0.85),)


def test_only_what_finished_is_repeated(make_ledger, open_study, report_epoch, run_all):
    asha = "stopping: {scheduler: asha, grace_epochs: 1, reduction_factor: 3}\n"
    study = open_study(make_ledger("search: {trials: 4, seed: 3, repeats: {seeds: 2}}\n" + asha))
    for _ in range(4):
        study.propose()
    report_epoch(study, 0, 1, 0.9, max_epochs=2)
    assert report_epoch(study, 1, 1, 0.1, max_epochs=2).verdict == "outranked"
    assert report_epoch(study, 2, 1, float("nan"), max_epochs=2).verdict == "broken"
    study.fail(3, {"error": "ValueError: no"})
    report_epoch(study, 0, 2, 0.9, max_epochs=2)
    study.finish(0, {"metrics": {}, "seconds": 1.0})
    assert repeats_of(study) == [None, None, None, None, 0]
    assert study.propose()["number"] == 4
    assert report_epoch(study, 4, 1, 0.0, max_epochs=2) is None, "the scheduler leaves a repeat alone"
    report_epoch(study, 4, 2, 0.0, max_epochs=2)
    study.finish(4, {"metrics": {}, "seconds": 1.0})
    assert (study.complete, study.best) == (True, (0, 0.45))


def test_a_repeat_that_fails_is_told_and_a_retry_belongs_to_the_same_trial(make_ledger, open_study, run_trial, run_all):
    ledger = make_ledger(ALL.replace("trials: 2", "trials: 1").replace("seeds: 3", "seeds: 2"))
    study = open_study(ledger)
    run_trial(study, [0.5])
    study.propose()
    study.begin(1)
    study.fail(1, {"error": "ValueError: no"})
    assert (study.complete, study.ended) == (True, {"finished": 1, "failed": 1})
    assert open_study(ledger).complete, "it is not run again by itself"
    failed = retryable(study.study.get_trials())
    assert [trial.number for trial in failed] == [1]
    study.study.enqueue_trial(failed[0].params, user_attrs={RETRIES: 1, **_repeated(failed[0])})
    study = open_study(ledger)
    run_all(study, [0.5, 0.7])
    assert study.complete
    assert study.found.winner.trials == (0, 2)
    assert study.best == (0, pytest.approx(0.6))


def test_the_best_by_mean_is_promoted_and_says_so(make_ledger, open_study, run_all, console, tmp_path):
    ledger = make_ledger(ALL, name="mine")
    run_all(open_study(ledger), [0.5, 0.6, 0.7, 0.9, 0.1, 0.2])
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    text = promote(ledger, None, None, console, tmp_path / "configs").read_text()
    assert "# Promoted from the sweep mine, trial 0: val/avg_acc 0.5, test/avg_acc 0.4.\n" in text
    assert "# Best by mean over 3 seeds (trials 0, 1, 2): val/avg_acc 0.6, standard deviation 0.1.\n" in text
    text = promote(ledger, 4, None, console, tmp_path / "configs").read_text()
    assert "# Its configuration ran with 3 seeds (trials 3, 4, 5): val/avg_acc 0.4, standard deviation 0.436.\n" in text


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("search: {repeats: {seeds: 1}}\n", 7, r"search\.repeats\.seeds: found 1: input should be greater than or equal to 2"),
        ("search: {repeats: {top: 2}}\n", 7, r"search\.repeats\.seeds: is missing"),
        ("search: {repeats: {seeds: 2, tob: 2}}\n", 7, r"search\.repeats\.tob: unknown key\. Did you mean top"),
        ("search: {repeats: 3}\n", 7, r"search\.repeats: found 3"),
        ("  seed: [1, 2]\nsearch: {repeats: {seeds: 2}}\n", 8, r"search\.repeats: each repeat .*test\.yaml:7 searches `seed`"),
    ],
)
def test_repeats_that_cannot_be_are_refused_with_their_line(make_space, text, where, what):
    with pytest.raises(SpaceError, match=rf"test\.yaml:{where}: {what}"):
        make_space(text)


def test_a_fixed_seed_leaves_none_for_repeats(make_space):
    text = "description: d\ntrial: [experiment=vimh, seed=3]\nobjective: {metric: val/avg_acc, mode: max}\n"
    text += "space: {model.optimizer.lr: {log_uniform: [0.1, 1.0]}}\nsearch: {repeats: {seeds: 2}}\n"
    with pytest.raises(
        SpaceError, match=r"5: search\.repeats: each repeat has a seed of its own, and .*test\.yaml:2 fixes `seed`"
    ):
        make_space(text, base=False)


def test_repeats_are_written_as_they_were_read(make_space, tmp_path):
    for text in ("search: {repeats: {seeds: 3, top: 2}}\n", "search: {repeats: {seeds: 3}}\n", ""):
        space = make_space(text)
        assert make_space(dump(space), "again", base=False) == space
    assert "repeats" not in dump(space)


class Killed(BaseException):
    """What stands for SIGKILL."""


WRITES = ("create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_state_values", "set_trial_system_attr")
COURSE = [0.5, 0.9, 0.7]
"""The search's values; each repeat has that of its source."""


@pytest.fixture
def drive(open_study, report_epoch, monkeypatch):
    """A function: a ledger, and before which write the driver is killed (none: 0) → runs what is left; how many writes."""

    def run(ledger: Ledger, limit: int = 0) -> int:
        count = 0

        def guarded(original):
            def write(*arguments, **keywords):
                nonlocal count
                count += 1
                if count == limit:
                    raise Killed
                return original(*arguments, **keywords)

            return write

        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(RDBStorage, name, guarded(getattr(RDBStorage, name)))
            study = open_study(ledger)
            while proposal := study.propose():
                trials = study.study.get_trials(deepcopy=False)
                number = proposal["number"]
                first = [
                    trial.number for trial in trials if "overrides" in trial.user_attrs and REPEATS not in trial.user_attrs
                ]
                value = COURSE[first.index(trials[number].user_attrs.get(REPEATS, number))]
                study.begin(number)
                report_epoch(study, number, 1, value, max_epochs=1, val__loss=value)
                study.finish(number, {"metrics": {}, "seconds": 1.0})
        return count

    return run


def outcome(ledger: Ledger) -> list[tuple]:
    """Of what ran: state, value, feasibility, and the value of the trial that it repeats."""
    trials = [trial for trial in ledger.study().get_trials() if "overrides" in trial.user_attrs]
    values = {trial.number: trial.value for trial in trials}
    found = [(trial.state, trial.value, trial.constraints, values.get(trial.user_attrs.get(REPEATS))) for trial in trials]
    assert all(trial.state.is_finished() for trial in ledger.study().get_trials())
    return found


BOUNDED = "search: {trials: 3, seed: 3, sampler: random, repeats: REPEATS}\nstopping: {scheduler: fifo}\n"
BOUNDED += "outcome_constraints: [{metric: val/loss, max: 0.8}]\n"


@pytest.mark.parametrize(
    ("wanted", "points"),
    [
        ("{seeds: 3, top: 1}", slice(49, None, 30)),
        pytest.param("{seeds: 3, top: 1}", slice(None), marks=pytest.mark.slow),
        pytest.param("{seeds: 2}", slice(None), marks=pytest.mark.slow),
    ],
)
def test_a_kill_before_any_write_neither_loses_a_repeat_nor_asks_for_one_twice(make_ledger, drive, wanted, points, tmp_path):
    template = make_ledger(BOUNDED.replace("REPEATS", wanted))
    fresh = tmp_path / "fresh"
    shutil.copytree(template.root, fresh)
    writes = drive(template)
    expected = outcome(template)
    assert [(value, source) for _, value, _, source in expected][-2:] == (
        [(0.7, 0.7)] * 2 if "top" in wanted else [(0.7, None), (0.7, 0.7)]
    )
    assert [constraints["val/loss <= 0.8"] <= 0 for _, value, constraints, _ in expected] == [
        value < 0.8 for _, value, _, _ in expected
    ]
    for limit in range(1, writes + 1)[points]:
        root = tmp_path / f"killed{limit}"
        shutil.copytree(fresh, root)
        with pytest.raises(Killed):
            drive(Ledger("test", root), limit)
        ledger = Ledger("test", root)
        drive(ledger)
        assert sorted(outcome(ledger), key=str) == sorted(expected, key=str), f"killed before write {limit}"
        twice = [trial.user_attrs[INSTEAD_OF] for trial in ledger.study().get_trials() if INSTEAD_OF in trial.user_attrs]
        assert len(twice) == len(set(twice))
