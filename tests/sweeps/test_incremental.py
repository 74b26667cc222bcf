"""What is kept up as trials come in is what it would be if it were made anew from all of them, after any history."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps import followups, quota
from sweeps.found import Found
from sweeps.quota import BEST, LAST, Keeper
from sweeps.settings import Tried
from sweeps.stopping.base import Rung
from sweeps.stopping.guard import Guard
from sweeps.stopping.median import MedianRule, _running_mean
from sweeps.stopping.pareto import Fronts, dominates, fronts, ranked
from sweeps.stopping.verdicts import Report
from sweeps.winners import Outcome, best, configurations

SMALL = st.integers(-3, 3).map(float)


def by_number(objectives: int):
    return st.lists(st.tuples(*[SMALL] * objectives), min_size=1, max_size=25).map(lambda scores: dict(enumerate(scores)))


@given(st.integers(2, 4).flatmap(by_number), st.randoms())
def test_fronts_are_peeled_off_one_by_one_whatever_the_order_they_came_in(scores, rng):
    coming = Fronts()
    for number in rng.sample(list(scores), len(scores)):
        coming.add(number, scores[number])
    left, peeled = dict(scores), []
    while left:
        front = [one for one in left if not any(dominates(left[other], left[one]) for other in left)]
        peeled.append(front)
        for one in front:
            del left[one]
    assert [sorted(front) for front in coming] == [sorted(front) for front in peeled]
    assert fronts(scores) == peeled


@given(st.integers(1, 3).flatmap(by_number), st.randoms())
def test_a_rung_ranks_as_all_that_came_there_are_ranked(scores, rng):
    rung = Rung()
    for number in rng.sample(list(scores), len(scores)):
        rung.enter(number, scores[number])
    groups = ranked(scores)
    order = [number for equals in groups for number in equals]
    assert (rung.ranked, rung.order) == (groups, order)
    for equals in groups:
        for number in equals:
            assert rung.place(number) == 1 + order.index(equals[0])
            assert rung.position(number) == 1 + order.index(number)
    for kept in range(1, len(order) + 1):
        assert rung.cut(kept) == scores[next(equals[0] for equals in groups if order[kept - 1] in equals)]
    with pytest.raises(ValueError, match="has been here"):
        rung.enter(0, scores[0])


REPORTS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.floats(0.5, 9.0), SMALL), max_size=40)


@given(REPORTS)
def test_the_guard_compares_with_the_median_of_all_others_at_that_epoch(reports):
    guard, norms = Guard("max", explode_factor=2.0, patience=9, min_gain=0.0, min_peers=2), {}
    for number, epoch, norm, value in reports:
        others = [each for (who, when), each in norms.items() if when == epoch and who != number]
        expected = len(others) >= 2 and norm > 2.0 * median(others)
        verdict = guard.judge(Report(number, epoch, 9, value, {Guard.NORM: norm}))
        assert (verdict is not None) == expected
        if verdict:
            assert verdict.numbers["median_of_peers"] == median(others)
            assert verdict.numbers["peers"] == len(others)
        norms[number, epoch] = norm


@given(REPORTS)
def test_the_median_rule_compares_with_the_running_means_of_all_others(reports):
    rule, courses, bests = MedianRule(("max",), grace_epochs=1, min_trials=2), {}, {}
    for number, epoch, _, value in reports:
        verdict = rule.judge(Report(number, epoch, 9, value, {}))
        courses.setdefault(number, {})[epoch] = (value,)
        bests[number] = max(bests.get(number, value), value)
        means = [_running_mean(course, epoch) for who, course in courses.items() if who != number]
        others = [mean[0] for mean in means if mean is not None]
        expected = len(others) >= 2 and bests[number] < median(others)
        assert (verdict is not None) == expected
        if verdict:
            assert (verdict.numbers["median"], verdict.numbers["others"]) == (median(others), len(others))


@st.composite
def outcomes(draw) -> list[Outcome]:
    made: list[Outcome] = []
    for number in range(draw(st.integers(1, 15))):
        source = draw(st.sampled_from([None, None, *(each.number for each in made if each.source is None), 99]))
        made.append(Outcome(number, (draw(SMALL),), source, {"a": draw(st.sampled_from([-1.0, 0.0, 1.0]))}))
    return draw(st.permutations(made))


@given(outcomes(), st.sampled_from(["max", "min"]))
def test_what_was_found_is_what_all_outcomes_say(given_outcomes, mode):
    found, so_far = Found((mode,)), []
    for outcome in given_outcomes:
        found.complete(outcome)
        so_far.append(outcome)
        expected = configurations(so_far)
        winner = best(expected, [mode])
        assert found.configurations == pytest.approx(expected, nan_ok=True) or str(found.configurations) == str(expected)
        assert str(found.winner) == str(winner)
        assert found.complete_trials == len(so_far)
        assert found.infeasible == sum(not each.feasible for each in so_far)
    for each in found.configurations:
        assert all(found.kin(number) == each.trials for number in each.trials)


def test_the_next_setting_is_the_first_that_was_not_tried(make_space):
    space = make_space(
        "description: d\ntrial: [experiment=vimh]\nobjective: {metric: val/avg_acc, mode: max}\n"
        "space:\n  model: [vimh_mlp, vimh_cnn]\n  data.batch_size: {power_of_two: [8, 64]}\n",
        "finite",
        base=False,
    )
    tried, seen = Tried(space), []
    while (setting := tried.untried()) is not None:
        cnn = tried.untried({"model": "vimh_cnn"})
        assert cnn is None or cnn["model"] == "vimh_cnn"
        tried.add(setting, len(seen))
        seen.append(setting)
    assert len(seen) == 8
    assert tried.exhausted


SEEDS = "search: {{trials: 6, seed: 3, sampler: random, repeats: {repeats}}}\nstopping: {{scheduler: {scheduler}}}\n"
KEPT = "keep_checkpoints: best 2, last 1\n"


@pytest.mark.parametrize("repeats", ["{seeds: 3}", "{seeds: 2, top: 2}"])
@pytest.mark.parametrize("scheduler", ["fifo", "asha, grace_epochs: 1, reduction_factor: 2"])
def test_after_each_end_nothing_is_due_and_the_quota_keeps_what_it_would_of_all(
    make_ledger, open_study, report_epoch, repeats, scheduler, monkeypatch
):
    monkeypatch.setattr(Keeper, "LATE", 4)
    study = open_study(make_ledger(SEEDS.format(repeats=repeats, scheduler=scheduler) + KEPT))
    keeper = Keeper(study.ledger, study.space, study.trials)
    keeper.everything()

    def ended(number, verdict):
        present = quota.checkpoints(study.ledger)
        expected = quota.kept(study.space.outputs.keep_checkpoints, study.space.modes, study.trials(), present)
        keeper.ended(number, lambda each: [study.trial(one) for one in study.found.kin(each)], study.open_trials())
        left = quota.checkpoints(study.ledger)
        assert left == {each: names for each, names in expected.items() if names}

    study.on_end.append(ended)
    values, running, asked = iter([0.5, 0.2, 0.9, 0.1, 0.7, 0.9] * 5), [], 0
    while not study.complete:
        while len(running) < 2 and (proposal := study.propose()):
            study.begin(proposal["number"])
            running.append((proposal["number"], next(values), 1))
        number, value, epoch = running.pop(0)
        checkpoints = study.ledger.trial(number).checkpoints
        checkpoints.mkdir(exist_ok=True)
        for name in (BEST, LAST):
            (checkpoints / name).touch()
        if report_epoch(study, number, epoch, value, max_epochs=2) is None:
            if epoch < 2:
                running.append((number, value, epoch + 1))
            else:
                study.finish(number, {"metrics": {}, "seconds": 2.0})
        asked += 1
        assert list(followups.due(study.space, study.trials())) == []
    assert asked > 10
    assert any("repeats" in trial.user_attrs for trial in study.trials())
