"""What holds for every scheduler there is: alone, and as the study asks it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.ledger import read_history
from sweeps.schema import SCHEDULER_OPTIONS, Stopping
from sweeps.stopping import SCHEDULERS, Report, Scheduler, Verdict, make_scheduler
from sweeps.study import SweepStudy

EPOCHS = 12
MODES = {"one objective": ("max",), "two objectives": ("max", "min")}


def fresh(name: str, modes: tuple[str, ...] = ("max",)) -> Scheduler:
    return make_scheduler(name, modes, options(name) | ({"min_trials": 2} if name == "median" else {}))


def options(name: str) -> dict[str, object]:
    """What a scheduler is made with where a space says nothing."""
    return Stopping(scheduler=name, **SCHEDULER_OPTIONS[name]).options


def report(number: int, epoch: int, *values: float, max_epochs: int = EPOCHS) -> Report:
    return Report(number, epoch, max_epochs, values[0], {}, tuple(values[1:]))


def course(number: int, objectives: int, seed: int = 0) -> list[tuple[float, ...]]:
    """A learning curve: values by epoch, coarse, so that ties occur."""
    rng = random.Random(1000 * seed + number)
    ends = [rng.randint(0, 5) for _ in range(objectives)]
    return [tuple(round(end * (1 - 0.8**epoch), 1) for end in ends) for epoch in range(1, EPOCHS + 1)]


def play(scheduler: Scheduler, trials: int, seed: int = 0, every: int = 1) -> dict[int, tuple[int, Verdict | None]]:
    """Trials that report in turns, in a random order; → each one's last epoch, and the verdict there. A suspended trial goes
    on when no other is left."""
    rng = random.Random(seed)
    objectives = len(scheduler.signs)
    told: list[tuple[int, int]] = []
    epochs = dict.fromkeys(range(trials), 0)
    ended: dict[int, tuple[int, Verdict | None]] = {}
    running = set(epochs)
    while running or scheduler.waiting:
        if not running:
            number, *_ = scheduler.ready(scheduler.waiting)
            for other, overtaken in list(scheduler.overtaken()):
                ended[other] = epochs[other], overtaken
                scheduler.end(other)
            scheduler.release(number)
            running.add(number)
            again = report(number, epochs[number], *course(number, objectives, seed)[epochs[number] - 1])
            assert scheduler.judge(again) is None, "what its checkpoint repeats ends no trial"
        number = rng.choice(sorted(running))
        epochs[number] = min(epochs[number] + every, EPOCHS)
        told.append((number, epochs[number]))
        verdict = scheduler.judge(report(number, epochs[number], *course(number, objectives, seed)[epochs[number] - 1]))
        if verdict is None and epochs[number] < EPOCHS:
            continue
        running.remove(number)
        if verdict is None or verdict.verdict != "waiting":
            ended[number] = epochs[number], verdict
            scheduler.end(number)
        for other, overtaken in list(scheduler.overtaken()):
            ended[other] = epochs[other], overtaken
            scheduler.end(other)
    scheduler.told = told  # type: ignore[attr-defined]
    return ended


def test_the_schema_offers_every_scheduler_with_its_options() -> None:
    assert list(SCHEDULERS) == list(SCHEDULER_OPTIONS)
    accepted = Stopping.model_fields["scheduler"].annotation
    assert set(SCHEDULERS) == set(accepted.__args__)
    for name in SCHEDULERS:
        assert isinstance(make_scheduler(name, ("max",), options(name)), Scheduler)


@pytest.mark.parametrize("modes", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", SCHEDULERS)
class TestEveryScheduler:
    def test_a_single_trial_is_never_stopped(self, name: str, modes: tuple[str, ...]) -> None:
        assert play(fresh(name, modes), 1) == {0: (EPOCHS, None)}

    def test_equal_trials_are_never_stopped_but_by_a_count(self, name: str, modes: tuple[str, ...]) -> None:
        scheduler = fresh(name, modes)
        verdicts = [scheduler.judge(report(number, epoch, *[0.5] * len(modes))) for epoch in (2, 6) for number in range(9)]
        assert sorted(scheduler.ready(scheduler.waiting)) == sorted(scheduler.waiting)
        verdicts += [verdict for _, verdict in scheduler.overtaken()]
        stopped = [verdict for verdict in verdicts if verdict is not None and verdict.verdict == "outranked"]
        assert len(stopped) == (6 if name == "constant" else 0)  # its best three are the earliest of equals

    def test_a_trial_at_its_last_epoch_is_never_stopped(self, name: str, modes: tuple[str, ...]) -> None:
        scheduler = fresh(name, modes)
        for number in range(8):
            worse = [-number if mode == "max" else number for mode in modes]
            assert scheduler.judge(report(number, 2, *worse, max_epochs=2)) is None
            assert scheduler.judge(report(number + 100, 5, *worse, max_epochs=4)) is None

    def test_trials_without_a_last_epoch_are_judged_all_the_same(self, name: str, modes: tuple[str, ...]) -> None:
        scheduler = fresh(name, modes)
        worse = [[-number if mode == "max" else number for mode in modes] for number in range(8)]
        verdicts = [scheduler.judge(report(number, 2, *values, max_epochs=-1)) for number, values in enumerate(worse)]
        scheduler.ready(scheduler.waiting)
        verdicts += [verdict for _, verdict in scheduler.overtaken()]
        stopped = any(verdict is not None and verdict.verdict == "outranked" for verdict in verdicts)
        assert stopped == (name not in {"fifo", "hyperband"})  # hyperband has nothing to divide

    def test_the_leader_is_never_stopped(self, name: str, modes: tuple[str, ...]) -> None:
        scheduler = fresh(name, modes)
        for number in range(20):
            better = [number if mode == "max" else -number for mode in modes]
            verdict = scheduler.judge(report(number, 4, *better))
            assert verdict is None or verdict.verdict == "waiting"

    def test_only_the_outranked_are_stopped_with_finite_numbers(self, name: str, modes: tuple[str, ...]) -> None:
        ended = play(fresh(name, modes), 30)
        stopped = [verdict for _, verdict in ended.values() if verdict]
        assert sorted(ended) == list(range(30))
        assert bool(stopped) == (name != "fifo")
        for verdict in stopped:
            assert verdict.verdict == "outranked"
            assert all(map(math.isfinite, verdict.numbers.values()))
            assert (" / " in verdict.reason) == (len(modes) > 1)

    def test_reports_that_come_again_or_late_change_nothing(self, name: str, modes: tuple[str, ...]) -> None:
        straight, repeating = fresh(name, modes), fresh(name, modes)
        for epoch in (1, 3, 7):  # validated every few epochs: no rung is met exactly
            for number in range(12):
                told = report(number, epoch, *course(number, len(modes))[epoch - 1])
                first = repeating.judge(told)
                assert straight.judge(told) == first
                if first is None:
                    assert repeating.judge(told) is None

    @pytest.mark.parametrize("every", [1, 5])
    def test_a_replay_one_trial_after_another_knows_the_same(self, name: str, modes: tuple[str, ...], every: int) -> None:
        scheduler, replayed = fresh(name, modes), fresh(name, modes)
        ended = play(scheduler, 20, every=every)
        for number, epoch in sorted(scheduler.told):
            replayed.judge(report(number, epoch, *course(number, len(modes))[epoch - 1]))
        for number in ended:
            replayed.end(number)
        assert not replayed.waiting
        assert list(replayed.overtaken()) == []
        for number in range(20, 40):
            for epoch in range(1, EPOCHS + 1):
                told = report(number, epoch, *course(number, len(modes))[epoch - 1])
                verdict = scheduler.judge(told)
                assert replayed.judge(told) == verdict
                if verdict:
                    break
            assert list(replayed.overtaken()) == list(scheduler.overtaken())


@pytest.mark.parametrize("name", SCHEDULERS)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 12))
def test_less_of_the_negated_is_more(name: str, seed: int, trials: int) -> None:
    """A law of signs: minimising −x ends the same trials at the same epochs as maximising x."""
    most, least = fresh(name, ("max",)), fresh(name, ("min",))
    for epoch in range(1, EPOCHS + 1):
        for number in range(trials):
            value = course(number, 1, seed)[epoch - 1][0]
            one, other = most.judge(report(number, epoch, value)), least.judge(report(number, epoch, -value))
            assert (one and one.verdict) == (other and other.verdict)


# As the study asks it

SPACE = "search: {{trials: {trials}, seed: 3, sampler: random}}\nstopping: {{scheduler: {name}, guard: {{mode: off}}}}\n"
NEEDS = {"pbt": "pbt, perturb: [model.optimizer.lr]"}
"""What stands in a space instead of the scheduler's name alone, where it has options without a default."""


def space_text(name: str, trials: int) -> str:
    return SPACE.format(trials=trials, name=NEEDS.get(name, name))


def message(epoch: int, value: float | None, repeated: bool = False) -> dict[str, object]:
    metrics = {"train/loss": 1.0} | ({} if value is None else {"val/avg_acc": value})
    common = {"epoch": epoch, "max_epochs": EPOCHS, "parameters": 7, "seconds": float(epoch)}
    return {**common, "metrics": metrics, "repeated": repeated}


def opened(ledger) -> SweepStudy:
    return SweepStudy(ledger, ledger.space(), lambda overrides: 1)


@pytest.fixture
def drive(save_last) -> Callable[..., list[tuple]]:
    return partial(run_all, save_last)


def run_all(save_last, ledger, values: Callable[[int, int], float], at_a_time: int, restart_every: int = 0) -> list[tuple]:
    """Run a sweep with several trials at a time, by a new driver after every so many reports; → what it found."""
    study, done, reports = opened(ledger), {}, 0
    copies = ledger.space().stopping.scheduler == "pbt"
    running: list[int] = []
    while True:
        while len(running) < at_a_time and (proposal := study.propose()):
            number = proposal["number"]
            study.begin(number)
            running.append(number)
            if number not in done:
                done[number] = study.study.get_trials(deepcopy=False)[number].user_attrs.get("to_epochs", 0)
            if done[number]:
                assert study.report(number, message(done[number], values(number, done[number]), repeated=True)) is None
        if not running:
            break
        number = running.pop(0)
        done[number] += 1
        if copies:
            save_last(ledger.trial(number), done[number])
        if study.report(number, message(done[number], values(number, done[number]))) is None:
            if done[number] == EPOCHS:
                study.finish(number, {"metrics": {}, "seconds": 1.0})
            else:
                running.append(number)
        reports += 1
        if restart_every and reports % restart_every == 0:
            study, running = opened(ledger), []
    assert study.complete
    return outcome(ledger)


def outcome(ledger) -> list[tuple]:
    trials = ledger.study().get_trials()
    return [
        (trial.number, trial.state.name, trial.value, trial.intermediate_values, trial.user_attrs["verdict"])
        for trial in trials
    ]


@pytest.mark.parametrize("name", SCHEDULERS)
class TestEverySchedulerInAStudy:
    def test_a_value_that_is_not_finite_is_broken_and_never_ranked(self, make_ledger, name: str) -> None:
        study = opened(make_ledger(space_text(name, 6)))
        for _ in range(6):
            study.propose()
        assert [study.report(number, message(2, math.nan)).verdict for number in range(5)] == ["broken"] * 5
        verdict = study.report(5, message(2, 0.1))  # the first to be ranked
        assert verdict is None or verdict.verdict == "waiting"

    def test_a_missing_metric_is_a_failure(self, make_ledger, name: str) -> None:
        study = opened(make_ledger(space_text(name, 2)))
        study.propose()
        verdict = study.report(0, message(1, None))
        assert (verdict.verdict, verdict.reason) == ("failed", "val/avg_acc was not logged; these were: train/loss")

    def test_a_single_trial_finishes(self, make_ledger, drive, name: str) -> None:
        found = drive(make_ledger(space_text(name, 1)), lambda number, epoch: 0.5, at_a_time=2)
        assert [row[1] for row in found] == ["COMPLETE"]

    def test_drivers_that_come_and_go_end_the_same_trials_one_at_a_time(self, make_ledger, drive, name: str) -> None:
        def values(number: int, epoch: int) -> float:
            return course(number, 1)[epoch - 1][0]

        text = space_text(name, 8)
        reference = drive(make_ledger(text, "whole"), values, at_a_time=1)
        assert drive(make_ledger(text, "killed"), values, at_a_time=1, restart_every=3) == reference


def histories(ledger, numbers: Iterable[int]) -> list[list[int]]:
    return [[row["epoch"] for row in read_history(ledger.trial(number).history)] for number in numbers]


def test_the_study_has_more_to_propose_while_a_trial_may_yet_be_suspended(make_ledger) -> None:
    ledger = make_ledger("search: {trials: 2}\nstopping: {scheduler: constant, cutoff_epochs: 2, top_k: 1}\n")
    study = opened(ledger)
    first, second = study.propose(), study.propose()
    assert study.propose() is None
    assert study.waiting, "both may come to the cut-off"
    for number, value in ((first["number"], 0.5), (second["number"], 0.4)):
        study.begin(number)
        for epoch in (1, 2):
            study.report(number, message(epoch, value))
    assert study.propose()["number"] == first["number"]
    assert study.propose() is None
    assert not study.waiting, "the best goes on, the other is outranked"


def test_under_the_constant_cutoff_the_best_wait_for_all_and_then_go_on(make_ledger) -> None:
    ledger = make_ledger("search: {trials: 5}\nstopping: {scheduler: constant, cutoff_epochs: 2, top_k: 2}\n")
    study = opened(ledger)
    for _ in range(3):
        study.propose()
    for number, value in enumerate([0.5, 0.3, 0.4]):
        study.report(number, message(1, value))
    assert [study.report(number, message(2, value)).verdict for number, value in enumerate([0.5, 0.3, 0.4])] == ["waiting"] * 3
    verdict = ledger.study().get_trials()[1].user_attrs["verdict"]  # it waited, until a better one came
    assert (verdict["verdict"], verdict["epoch"]) == ("outranked", 2)
    assert verdict["reason"] == "3 of 3 at the cut-off of 2 epochs, where 2 go on: 0.3 against a cut of 0.4"
    assert study.waiting
    assert [study.propose()["number"] for _ in range(2)] == [3, 4]
    assert study.propose() is None  # 3 and 4 have not come there
    assert study.report(3, message(2, 0.1)).verdict == "outranked"
    assert study.propose() is None
    study.fail(4, {"error": "ValueError: no"})
    assert [study.propose()["number"] for _ in range(2)] == [0, 2]  # the better one first
    assert study.propose() is None
    assert not study.waiting
    for number in (0, 2):
        assert study.report(number, message(2, 0.5 - number / 20, repeated=True)) is None
        for epoch in range(3, EPOCHS + 1):
            assert study.report(number, message(epoch, 0.6)) is None
        study.finish(number, {"metrics": {}, "seconds": 1.0})
    assert study.complete
    assert dict(study.ended) == {"finished": 2, "outranked": 2, "failed": 1}
    assert histories(ledger, (0, 1)) == [list(range(1, EPOCHS + 1)), [1, 2]]


def test_a_sweep_that_is_extended_ranks_the_new_trials_with_the_old(make_ledger, drive, make_space) -> None:
    from lhtx.files import write_atomically
    from sweeps.space import dump

    text = "search: {{trials: {}, sampler: random}}\nstopping: {{scheduler: constant, top_k: 1, guard: {{mode: off}}}}\n"
    ledger = make_ledger(text.format(3))
    values = [0.1, 0.5, 0.3, 0.4, 0.9]
    first = drive(ledger, lambda number, epoch: values[number], at_a_time=1)
    assert [row[1] for row in first] == ["PRUNED", "COMPLETE", "PRUNED"]
    write_atomically(ledger.space_file, dump(make_space(text.format(5))))
    both = drive(ledger, lambda number, epoch: values[number], at_a_time=1)
    assert both[:3] == first
    assert [row[1] for row in both] == ["PRUNED", "COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
