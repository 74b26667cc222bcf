"""The study hears the truth: what is asked, reported and ended stands in it, through kills at any instant."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import TrialState

from lhtx.errors import ConfigError
from sweeps.errors import LedgerError, SpaceError
from sweeps.ledger import read_history
from sweeps.proposals import draw, trial_seed
from sweeps.study import SweepStudy

FIFO = "search: {trials: 4, seed: 3}\nstopping: {scheduler: fifo}\n"
ASHA = "search: {trials: 6, seed: 3}\nstopping: {scheduler: asha, grace_epochs: 1, reduction_factor: 3}\n"


def no_size(overrides):
    raise AssertionError("no constraint asks for the size")


def open_study(ledger, network_size=no_size):
    return SweepStudy(ledger, ledger.space(), network_size)


def report(study, number, epoch, value, max_epochs=3, seconds=1.0, repeated=False, **metrics):
    metrics = {"val/avg_acc": value, "train/loss": 1.0, **{key.replace("__", "/"): cell for key, cell in metrics.items()}}
    message = {"epoch": epoch, "max_epochs": max_epochs, "parameters": 1234, "seconds": seconds * epoch, "metrics": metrics}
    return study.report(number, {**message, "repeated": repeated})


def finish(study, number, values):
    for epoch, value in enumerate(values, start=1):
        assert report(study, number, epoch, value, max_epochs=len(values)) is None
    return study.finish(number, {"metrics": {"test/avg_acc": 0.4, "val/avg_acc": values[-1]}, "seconds": 9.0})


def stored(ledger):
    return {trial.number: trial for trial in ledger.study().get_trials()}


def test_a_finished_trial_is_complete_at_its_best_value(make_ledger):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    assignment = study.propose()
    assert assignment["number"] == 0
    finish(study, 0, [0.1, 0.5, 0.3])
    trial = stored(ledger)[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert trial.intermediate_values == {1: 0.1, 2: 0.5, 3: 0.3}
    assert trial.user_attrs["metrics"] == {"test/avg_acc": 0.4, "val/avg_acc": 0.3}
    assert trial.user_attrs["verdict"] == {"verdict": "finished", "reason": "ran all its 3 epochs", "epoch": 3, "numbers": {}}
    assert [trial.user_attrs[key] for key in ("parameters", "epochs", "seconds", "max_epochs")] == [1234, 3, 9.0, 3]
    assert study.best == (0, 0.5)
    assert [row["val/avg_acc"] for row in read_history(ledger.trial(0).history)] == [0.1, 0.5, 0.3]


def test_a_trial_is_its_overrides_with_resources_and_a_seed_of_its_own(make_ledger):
    ledger = make_ledger(FIFO + "resources: {cpu: 2}\n")
    study = open_study(ledger)
    chosen = [study.propose()["overrides"] for _ in range(2)]
    rates = [trial.params["model.optimizer.lr"] for trial in stored(ledger).values()]
    for number in range(2):
        assert chosen[number] == [
            "experiment=vimh",
            f"model.optimizer.lr={rates[number]!r}",
            "optimized_metric=val/avg_acc",
            "optimized_mode=max",
            "threads=2",
            "trainer.accelerator=cpu",
            "trainer.devices=1",
            f"seed={trial_seed(3, number)}",
        ]
        assert ledger.trial(number).overrides.read_text() == "".join(f"{line}\n" for line in chosen[number])
    assert trial_seed(3, 0) != trial_seed(3, 1)


def test_a_seed_that_the_space_searches_is_left_alone(make_space):
    space = make_space("  seed: {choice: [11, 12]}\n")
    seeds = [override for override in draw(space, 0, no_size) if override.startswith("seed=")]
    assert len(seeds) == 1
    assert seeds[0] in {"seed=11", "seed=12"}


def test_an_outranked_trial_is_pruned_with_its_values(make_ledger):
    ledger = make_ledger(ASHA)
    study = open_study(ledger)
    for _ in range(3):
        study.propose()
    assert report(study, 0, 1, 0.5) is None
    assert report(study, 1, 1, 0.6) is None
    verdict = report(study, 2, 1, 0.2)
    assert verdict.verdict == "outranked"
    trial = stored(ledger)[2]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, 0.2, {1: 0.2})
    assert trial.user_attrs["verdict"]["numbers"]["cut"] == 0.6
    assert read_history(ledger.trial(2).history)[-1]["verdict"] == f"outranked: {verdict.reason}"
    assert study.ended == {"outranked": 1}


@pytest.mark.parametrize("mode", ["act", "shadow", "off"])
def test_an_objective_that_is_not_finite_ends_a_trial_in_every_mode_and_never_ranks(make_ledger, mode):
    ledger = make_ledger(ASHA.replace("reduction_factor: 3", f"reduction_factor: 3, guard: {{mode: {mode}}}"))
    study = open_study(ledger)
    for _ in range(2):
        study.propose()
    assert report(study, 0, 1, math.nan).verdict == "broken"
    assert report(study, 1, 1, 0.1) is None  # alone at its rung: the NaN has not been there
    trial = stored(ledger)[0]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["verdict"]["numbers"] == {"objective": "nan"}


def test_spent_is_complete_at_its_best_and_shadow_only_notes_it(make_ledger):
    guard = "search: {{trials: 4}}\nstopping: {{scheduler: fifo, guard: {{mode: {}, patience: 2}}}}\n"
    verdicts, ledgers = {}, {}
    for mode in ("act", "shadow"):
        ledgers[mode] = make_ledger(guard.format(mode), name=mode)
        study = open_study(ledgers[mode])
        study.propose()
        verdicts[mode] = [report(study, 0, epoch, 0.5 if epoch == 1 else 0.4, 9, grad__evidence=0.1) for epoch in (1, 2, 3)]
        if mode == "shadow":
            report(study, 0, 4, 0.4, 9, grad__evidence=0.1)
    acted, shadowed = (stored(ledgers[mode])[0] for mode in ("act", "shadow"))
    assert [verdict and verdict.verdict for verdict in verdicts["act"]] == [None, None, "spent"]
    assert (acted.state, acted.value) == (TrialState.COMPLETE, 0.5)
    assert verdicts["shadow"] == [None, None, None]
    assert shadowed.state == TrialState.RUNNING
    assert [(entry["verdict"], entry["epoch"]) for entry in shadowed.user_attrs["shadow"]] == [("spent", 3)]
    rows = read_history(ledgers["shadow"].trial(0).history)
    assert [row["verdict"].split(":")[0] for row in rows] == ["", "", "shadow spent", "shadow spent"]
    study.finish(0, {"metrics": {}, "seconds": 4.0})
    rows = read_history(ledgers["shadow"].trial(0).history)
    assert [row["verdict"].split(":")[0] for row in rows] == ["", "", "shadow spent", "finished"], "the trial's own comes first"


def test_a_failed_trial_is_fail_with_its_error(make_ledger):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    study.propose()
    study.fail(0, {"error": "ValueError: no"})
    trial = stored(ledger)[0]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["verdict"]["reason"] == "ValueError: no"
    assert [(number, verdict.verdict) for number, verdict in study.news()] == [(0, "failed")]


def test_an_objective_that_was_not_logged_fails_the_trial_and_lists_what_was(make_ledger):
    study = open_study(make_ledger(FIFO))
    study.propose()
    message = {"epoch": 1, "max_epochs": 2, "parameters": 1, "seconds": 1, "metrics": {"val/loss": 1.0, "train/loss": 2.0}}
    verdict = study.report(0, {**message, "repeated": False})
    assert verdict.verdict == "failed"
    assert verdict.reason == "val/avg_acc was not logged; these were: train/loss, val/loss"


def test_as_many_trials_as_asked_for(make_ledger):
    study = open_study(make_ledger(FIFO))
    for number in range(4):
        assert study.propose()["number"] == number
        finish(study, number, [0.1 * number])
    assert study.propose() is None
    assert study.complete


def test_after_a_kill_interrupted_trials_go_on_under_their_numbers_and_ended_ones_stay(make_ledger):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    first = [study.propose() for _ in range(3)]
    finish(study, 0, [0.3, 0.2])
    report(study, 1, 1, 0.4, seconds=2.0)
    report(study, 1, 2, 0.6, seconds=2.0)
    # Killed here: 1 has two epochs, 2 none.
    resumed = open_study(ledger)
    assert (resumed.ended, resumed.interrupted, resumed.best) == ({"finished": 1}, 2, (0, 0.3))
    again = [resumed.propose() for _ in range(3)]
    assert again[:2] == first[1:]
    assert again[2]["number"] == 3
    assert resumed.propose() is None
    # Trial 1 continues from the checkpoint of epoch 1: epoch 2 is said again, then 3; its seconds go on.
    report(resumed, 1, 2, 0.6, seconds=1.0)
    report(resumed, 1, 3, 0.5, seconds=1.0)
    resumed.finish(1, {"metrics": {}, "seconds": 4.0})
    rows = read_history(ledger.trial(1).history)
    assert [(row["epoch"], row["val/avg_acc"], row["seconds"]) for row in rows] == [(1, 0.4, 2.0), (2, 0.6, 4.0), (3, 0.5, 5.0)]
    trial = stored(ledger)[1]
    assert (trial.value, trial.intermediate_values) == (0.6, {1: 0.4, 2: 0.6, 3: 0.5})
    assert trial.user_attrs["seconds"] == 6.0


@pytest.mark.parametrize("heard", [True, False])
def test_what_a_checkpoint_repeats_fills_a_gap_and_changes_nothing_otherwise(make_ledger, heard):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    study.propose()
    report(study, 0, 1, 0.4, seconds=2.0)
    if heard:
        report(study, 0, 2, 0.6, seconds=2.0)
    resumed = open_study(ledger)
    resumed.propose()
    report(resumed, 0, 2, 0.6, seconds=0.0, repeated=True)
    report(resumed, 0, 3, 0.5, seconds=1.0)
    rows = [(row["epoch"], row["val/avg_acc"], row["seconds"]) for row in read_history(ledger.trial(0).history)]
    assert rows == ([(1, 0.4, 2.0), (2, 0.6, 4.0), (3, 0.5, 7.0)] if heard else [(1, 0.4, 2.0), (2, 0.6, 2.0), (3, 0.5, 5.0)])
    assert stored(ledger)[0].intermediate_values == {1: 0.4, 2: 0.6, 3: 0.5}


def test_another_attempt_after_a_lost_process_counts_its_seconds_on(make_ledger):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    study.propose()
    study.begin(0)
    for epoch in (1, 2):
        report(study, 0, epoch, 0.5, seconds=2.0)
    study.lost(0)
    assert study.running == {}
    study.begin(0)
    assert study.running == {0: 2}
    report(study, 0, 2, 0.5, seconds=0.0, repeated=True)
    report(study, 0, 3, 0.6, seconds=1.0)
    assert [row["seconds"] for row in read_history(ledger.trial(0).history)] == [2.0, 4.0, 7.0]
    study.lost(0)
    study.fail(0, {"error": "its process was lost too often"})
    assert stored(ledger)[0].user_attrs["seconds"] == 7.0


def test_halving_remembers_across_a_kill(make_ledger):
    ledger = make_ledger(ASHA)
    study = open_study(ledger)
    for number, value in enumerate([0.5, 0.6]):
        study.propose()
        report(study, number, 1, value)
    study.propose()
    resumed = open_study(ledger)
    for _ in range(3):
        resumed.propose()
    assert report(resumed, 2, 1, 0.55).numbers["reached"] == 3


def test_a_kill_in_the_middle_of_a_proposal_or_of_a_verdict(make_ledger):
    ledger = make_ledger(FIFO)
    ledger.study().ask()  # a row without overrides: killed while it was being proposed
    study = open_study(ledger)
    assert stored(ledger)[0].user_attrs["verdict"]["verdict"] == "rejected"
    assert study.started == 0
    study.propose()
    report(study, 1, 1, 0.4)
    verdict = {"verdict": "broken", "reason": "dead: x", "epoch": 1, "numbers": {}}
    ledger.storage.set_trial_user_attr(stored(ledger)[1]._trial_id, "verdict", verdict)  # killed before the row was closed
    resumed = open_study(ledger)
    assert stored(ledger)[1].state == TrialState.FAIL
    assert (resumed.ended, resumed.interrupted) == ({"broken": 1}, 0)


def test_a_trial_ended_by_something_else_is_not_guessed_at(make_ledger):
    ledger = make_ledger(FIFO)
    study = ledger.study()
    study.tell(study.ask(), 0.5)
    with pytest.raises(LedgerError, match="trial 0 is COMPLETE without a verdict"):
        open_study(ledger)


def test_a_resumed_sampler_does_not_repeat_its_draws(make_ledger):
    ledger = make_ledger("search: {trials: 40, sampler: random, seed: 1}\n")
    for _ in range(4):
        study = open_study(ledger)
        study._interrupted.clear()
        for _ in range(3):
            study.propose()
    rates = [trial.params["model.optimizer.lr"] for trial in stored(ledger).values()]
    assert len(set(rates)) == 12


def test_the_same_seed_proposes_the_same_trials(make_ledger):
    proposals = []
    for name in ("one", "two"):
        study = open_study(make_ledger(FIFO, name=name))
        proposals.append([study.propose()["overrides"] for _ in range(4)])
    assert proposals[0] == proposals[1]


def test_rejected_proposals_have_a_row_and_do_not_count(make_ledger):
    ledger = make_ledger(FIFO + "constraints: [model.optimizer.lr < 0.003]\n")
    study = open_study(ledger)
    numbers = []
    while proposal := study.propose():
        numbers.append(proposal["number"])
        finish(study, proposal["number"], [0.5])
    assert len(numbers) == 4
    trials = stored(ledger)
    rejected = [trial for trial in trials.values() if trial.number not in numbers]
    assert rejected
    assert all(trial.state == TrialState.FAIL for trial in rejected)
    assert all(trial.params["model.optimizer.lr"] >= 0.003 for trial in rejected)
    assert rejected[0].user_attrs["verdict"]["reason"].startswith("constraint model.optimizer.lr < 0.003 (")
    assert all(trials[number].params["model.optimizer.lr"] < 0.003 for number in numbers)


def test_a_combination_that_does_not_compose_is_its_own_failure(make_ledger):
    sizes = iter([ConfigError("cannot compose this"), 300])

    def size(overrides):
        found = next(sizes)
        if isinstance(found, Exception):
            raise found
        return found

    ledger = make_ledger(FIFO + "constraints: [parameters <= 1000]\n")
    assert open_study(ledger, size).propose()["number"] == 1
    assert stored(ledger)[0].state == TrialState.FAIL
    assert "cannot compose this" in stored(ledger)[0].user_attrs["verdict"]["reason"]
    assert open_study(ledger, size).started == 2


def test_a_constraint_on_the_size_asks_for_it(make_ledger):
    sizes = iter([500, 2000, 300])
    study = open_study(make_ledger(FIFO + "constraints: [parameters <= 1000]\n"), lambda overrides: next(sizes))
    assert [study.propose()["number"] for _ in range(2)] == [0, 2]


def test_constraints_that_nothing_satisfies(make_space, make_ledger, monkeypatch):
    monkeypatch.setattr("sweeps.proposals.MAX_REJECTIONS", 5)
    text = FIFO + "constraints: [model.optimizer.lr > 1]\n"
    with pytest.raises(SpaceError, match=r"refused 5 proposals in a row: model\.optimizer\.lr > 1"):
        open_study(make_ledger(text)).propose()
    with pytest.raises(SpaceError, match="refused 5 proposals in a row"):
        draw(make_space(text), 0, no_size)


def test_start_with_comes_first(make_ledger):
    text = "search: {trials: 3, start_with: [{model.optimizer.lr: 0.01}, {model.optimizer.lr: 0.02}]}\n"
    ledger = make_ledger(text)
    study = open_study(ledger)
    for _ in range(3):
        study.propose()
    rates = [trial.params["model.optimizer.lr"] for trial in stored(ledger).values()]
    assert rates[:2] == [0.01, 0.02]
    assert rates[2] not in rates[:2]


def test_first_trials_that_all_fail_for_one_reason_make_the_sweep_hopeless(make_ledger):
    ledger = make_ledger("search: {trials: 10}\n")
    study = open_study(ledger)
    for number in range(3):
        study.propose()
        assert study.hopeless is None
        study.fail(number, {"error": f"OSError: [Errno 28] No space left on device: 'runs/x/trials/000{number}/config.yaml'"})
    assert study.hopeless == "failed OSError: [Errno …] No space left on device: …"
    assert open_study(ledger).hopeless is None  # it may have been mended


def test_failures_for_different_reasons_or_after_a_success_do_not(make_ledger):
    study = open_study(make_ledger("search: {trials: 10}\n"))
    for number in range(5):
        study.propose()
        study.fail(number, {"error": ["ValueError: no", "TypeError: no"][number % 2]})
    assert study.hopeless is None
    study = open_study(make_ledger("search: {trials: 10}\n", name="other"))
    study.propose()
    finish(study, 0, [0.5])
    for number in range(1, 6):
        study.propose()
        study.fail(number, {"error": "ValueError"})
    assert study.hopeless is None


def test_minimising_takes_the_smallest(make_space, tmp_path):
    from sweeps.creation import create_ledger
    from sweeps.ledger import Ledger

    text = (
        "description: d\ntrial: [experiment=vimh]\nobjective: {metric: val/loss, mode: min}\n"
        "space: {model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}}\nstopping: {scheduler: fifo}\n"
    )
    ledger = Ledger("least", tmp_path / "runs")
    create_ledger(ledger, make_space(text, "least", base=False))
    study = open_study(ledger)
    study.propose()
    for epoch, loss in enumerate([2.0, 1.0, 1.5], start=1):
        report(study, 0, epoch, 0.5, val__loss=loss)
    study.finish(0, {"metrics": {}, "seconds": 1.0})
    assert stored(ledger)[0].value == 1.0
    assert ledger.study().direction == optuna.study.StudyDirection.MINIMIZE


def test_combinations_that_never_compose_do_not_use_up_the_sweep(make_ledger):
    def size(overrides):
        raise ConfigError("cannot compose this")

    study = open_study(make_ledger("search: {trials: 50}\nconstraints: [parameters <= 1000]\n"), size)
    assert study.propose() is None
    assert study.ended == {"failed": 3}
    assert study.hopeless.endswith("cannot compose this")
