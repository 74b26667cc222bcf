"""Which trials train as one: places shared evenly, filled while a group trains, and what becomes of a group that is lost."""

from __future__ import annotations

import pytest

from sweeps.groups import Groups

SPACE = """
search: {{trials: {trials}, sampler: random}}
fuse: {fuse}
stopping: {{scheduler: {scheduler}, guard: {{mode: "off"}}}}
"""
ASHA = "asha, grace_epochs: 2, reduction_factor: 2"
CONSTANT = "constant, cutoff_epochs: 1, top_k: 1"


@pytest.fixture
def make(make_ledger, open_study):
    """A function: trials, `fuse`, slots, scheduler → the study of a new sweep and its groups."""

    def make(trials=8, fuse=4, slots=1, scheduler="fifo", more=False):
        study = open_study(make_ledger(SPACE.format(trials=trials, fuse=fuse, scheduler=scheduler)))
        return study, Groups(study, slots, more)

    return make


def numbers(assignments):
    return [assignment["number"] for assignment in assignments]


def start(study, groups, name="a"):
    """Form a group and start it; its trials' numbers."""
    formed = numbers(groups.form(name))
    for number in formed:
        study.begin(number)
    return formed


def message(reports=None, finished=(), unfit=(), repeated=False, max_epochs=9):
    """Args: reports: trial → (epoch, objective)."""
    return {
        "kind": "group",
        "reports": [
            {
                "number": number,
                "epoch": epoch,
                "max_epochs": max_epochs,
                "parameters": 7,
                "seconds": float(epoch),
                "repeated": repeated,
                "metrics": {"val/avg_acc": value, "train/loss": 1.0},
            }
            for number, (epoch, value) in (reports or {}).items()
        ],
        "finished": [{"number": number, "metrics": {"test/avg_acc": 0.5}, "seconds": 9.0} for number in finished],
        "unfit": [{"number": number, "error": "ConfigError: not like the others"} for number in unfit],
    }


def order(assignment):
    """Which order of batches an assignment names for its first epoch."""
    return next((int(text.split("=")[1]) for text in assignment["overrides"] if text.startswith("data.first_order=")), 0)


def test_trials_are_shared_evenly_among_the_slots(make):
    study, groups = make(trials=6, fuse=4, slots=2)
    assert [start(study, groups, name) for name in "ab"] == [[0, 1, 2], [3, 4, 5]]
    assert groups.form("c") == []
    assert study.started == 6


def test_a_group_has_at_most_as_many_as_the_space_says(make):
    study, groups = make(trials=20, fuse=4, slots=2)
    assert [len(start(study, groups, name)) for name in "ab"] == [4, 4]


@pytest.mark.parametrize(("more", "ahead"), [(False, 0), (True, 4)])
def test_a_group_waits_for_a_slot_only_where_slots_may_come(make, more, ahead):
    study, groups = make(trials=20, fuse=4, slots=1, more=more)
    start(study, groups)
    assert len(groups.form("b")) == ahead
    assert study.started == 4 + ahead, "the others are proposed when a place is free"


def test_without_fusing_each_trial_is_proposed_ahead_and_by_itself(make):
    study, groups = make(trials=3, fuse=1)
    assert [numbers(groups.form(name)) for name in "abcd"] == [[0], [1], [2], []]
    assert not groups.fused("a")
    assert not groups.may_come_back
    study.begin(0)
    groups.end("a", "ValueError: no")
    assert study.ended == {"failed": 1}


def test_a_place_that_is_free_goes_to_a_trial_that_begins_with_the_order_the_group_has_reached(make):
    study, groups = make(trials=6, fuse=2, scheduler=ASHA)
    assert start(study, groups) == [0, 1]
    assert not groups.hear("a", message({0: (1, 0.5), 1: (1, 0.1)})), "it is too early to compare them"
    change = groups.hear("a", message({0: (2, 0.5), 1: (2, 0.1)}))
    assert change.stop == [1]
    assert numbers(change.join) == [2]
    assert order(change.join[0]) == 2
    assert study.running == {0: 2, 2: 0}
    assert numbers(groups.members("a")) == [0, 2]
    groups.hear("a", message({0: (3, 0.5), 2: (1, 0.1)}))
    change = groups.hear("a", message({0: (4, 0.5), 2: (2, 0.1)}))
    assert change.stop == [2]
    assert [order(each) for each in change.join] == [4]


def test_who_has_finished_makes_place_too(make):
    study, groups = make(trials=3, fuse=2)
    start(study, groups)
    groups.hear("a", message({0: (1, 0.5), 1: (1, 0.9)}, max_epochs=1))
    change = groups.hear("a", message(finished=[0, 1]))
    assert (change.stop, numbers(change.join), order(change.join[0])) == ([], [2], 1)
    assert study.ended == {"finished": 2}
    groups.hear("a", message({2: (1, 0.5)}, max_epochs=1))
    assert not groups.hear("a", message(finished=[2]))
    assert groups.members("a") == []
    groups.end("a")
    assert study.complete


def test_nobody_joins_with_the_answer_that_suspends_a_trial(make):
    """It may be the very one that goes on next, and has not written its checkpoint yet."""
    study, groups = make(trials=3, fuse=2, scheduler=CONSTANT)
    start(study, groups)
    suspended = groups.hear("a", message({0: (1, 0.5), 1: (1, 0.9)}))
    assert suspended.stop == [0, 1]
    assert suspended.join == []
    assert study.waiting
    groups.end("a")  # nobody is left in it
    assert start(study, groups, "b") == [2]
    change = groups.hear("b", message({2: (1, 0.1)}))
    assert (change.stop, numbers(change.join)) == ([2], [1]), "2 is outranked, and the best of all goes on"
    assert groups.members("b") == change.join


def test_an_interrupted_trial_goes_on_with_its_own_orders_and_new_ones_follow_the_most_advanced(
    make_ledger, open_study, report_epoch
):
    ledger = make_ledger(SPACE.format(trials=3, fuse=3, scheduler="fifo"))
    study = open_study(ledger)
    number = study.propose(order=5)["number"]
    study.begin(number)
    report_epoch(study, number, 1, 0.5)
    report_epoch(study, number, 2, 0.5)
    study = open_study(ledger)  # another driver
    groups = Groups(study)
    assert [(each["number"], order(each)) for each in groups.form("a")] == [(0, 5), (1, 7), (2, 7)]


def test_a_trial_that_does_not_fit_trains_by_itself_and_others_may_join(make):
    study, groups = make(trials=5, fuse=2, slots=2)
    assert start(study, groups) == [0, 1]
    change = groups.hear("a", message({0: (1, 0.5), 1: (1, 0.5)}, finished=[1]))
    assert numbers(change.join) == [2]
    change = groups.hear("a", message({0: (2, 0.5)}, unfit=[2]))
    assert not change, "the next to be proposed is 2 again, which is kept for a process of its own"
    assert list(study.news())[-1] == (2, "leaves its group, and goes on by itself: ConfigError: not like the others")
    assert start(study, groups, "b") == [2]
    assert not groups.fused("b")
    assert groups.fused("a")
    change = groups.hear("a", message({0: (3, 0.5)}))
    assert numbers(change.join) == [3]
    groups.end("b", "ConfigError: nor by itself")
    assert study.ended == {"finished": 1, "failed": 1}
    assert study.trial(2).user_attrs["verdict"]["reason"] == "ConfigError: nor by itself"


def test_a_group_that_ends_with_an_error_goes_on_one_by_one(make):
    study, groups = make(trials=3, fuse=3)
    start(study, groups)
    groups.hear("a", message({number: (1, 0.5) for number in range(3)}))
    assert groups.may_come_back
    groups.end("a", "RuntimeError: one of them")
    assert not study.ended
    assert study.interrupted == 3
    for number in range(3):
        name = f"alone {number}"
        assert start(study, groups, name) == [number]
        assert not groups.fused(name)
        assert groups.form("waits for the slot") == []
        if number == 1:
            groups.end(name, "RuntimeError: it was this one")
            continue
        study.finish(number, {"metrics": {}, "seconds": 1.0})
        groups.end(name)
    assert study.ended == {"finished": 2, "failed": 1}
    assert not groups.may_come_back
    assert groups.form("b") == []


def test_a_group_whose_process_is_lost_is_started_again_with_those_that_are_members_now(make):
    study, groups = make(trials=4, fuse=2, scheduler=ASHA)
    start(study, groups)
    groups.hear("a", message({0: (1, 0.9), 1: (1, 0.1)}))
    change = groups.hear("a", message({0: (2, 0.9), 1: (2, 0.1)}))
    assert (change.stop, numbers(change.join)) == ([1], [2])
    again = groups.members("a")
    assert numbers(again) == [0, 2]
    assert order(again[1]) == 2
    for number in (0, 2):
        study.lost(number)
        study.begin(number)
    assert groups.fused("a")
    groups.hear("a", message({0: (2, 0.9)}, repeated=True))
    change = groups.hear("a", message({0: (3, 0.9), 2: (1, 0.95)}))
    assert not change
    assert {number: study.epochs(number) for number in (0, 2)} == {0: 3, 2: 1}


def test_of_a_group_that_is_gone_nothing_is_known(make):
    study, groups = make()
    start(study, groups)
    groups.end("a")
    assert groups.members("a") == []
    assert not groups.fused("a")
    groups.end("a", "told twice")
    assert not study.ended
