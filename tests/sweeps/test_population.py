"""Population-based training: who makes way for whose copy, what is perturbed in it, and what a sweep makes of that."""

from __future__ import annotations

import math
import random
from itertools import permutations
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from lhtx.files import REMOVED, write_atomically
from sweeps import population
from sweeps.continuation import awaited
from sweeps.debug import debug
from sweeps.distributions import Choice, Normal, PowerOfTwo, Range
from sweeps.errors import LedgerError, SpaceError, SweepError
from sweeps.ledger import read_history
from sweeps.population import explored
from sweeps.quota import require_start
from sweeps.schema import SCHEDULER_OPTIONS, Stopping
from sweeps.stopping import PopulationBasedTraining, Report
from sweeps.validation import validate

EPOCHS = 12


def at(number: int, epoch: int, value: float, max_epochs: int = EPOCHS) -> Report:
    return Report(number, epoch, max_epochs, value, {})


def assembled(values: list[float], quantile: float = 0.25, order: tuple[int, ...] | None = None) -> PopulationBasedTraining:
    """A population whose members have all come to the end of the first generation, with these values."""
    scheduler = PopulationBasedTraining(("max",), interval_epochs=3, quantile=quantile)
    for number in order or range(len(values)):
        for epoch in (1, 2, 3):
            verdict = scheduler.judge(at(number, epoch, values[number]))
            assert (verdict and verdict.verdict) == ("waiting" if epoch == 3 else None)
    return scheduler


# Who makes way


def test_the_worst_quarter_makes_way_for_copies_of_the_best() -> None:
    scheduler = assembled([0.1, 0.8, 0.3, 0.7, 0.5, 0.6, 0.4, 0.2])
    assert list(scheduler.overtaken()) == [], "nobody is ranked before all are known to have come"
    assert scheduler.ready(range(8)) == [1, 3, 5, 4, 6, 2]
    found = dict(scheduler.overtaken())
    assert sorted(found) == [0, 7]
    assert all(verdict.numbers["donor"] in {1, 3} for verdict in found.values())
    assert found[0].epoch == found[0].numbers["donor_epoch"] == 3
    assert found[0].reason.startswith("8 of 8 at the end of generation 1, of whom the last 2 make way: 0.1; a copy of trial ")


def test_who_has_failed_is_not_waited_for_and_who_runs_is() -> None:
    scheduler = assembled([0.1, 0.2, 0.3, 0.4])
    assert scheduler.ready([0, 1, 2, 3, 4]) == [], "trial 4 has said nothing yet"
    assert scheduler.judge(at(4, 1, 0.9)) is None
    assert scheduler.ready([0, 1, 2, 3, 4]) == []
    scheduler.end(4)
    assert scheduler.ready([0, 1, 2, 3]) == [3, 2, 1]


def test_the_weights_of_now_are_ranked_and_not_the_best_that_there_were() -> None:
    scheduler = PopulationBasedTraining(("max",), interval_epochs=2, quantile=0.5)
    for number, values in enumerate([[0.9, 0.1], [0.2, 0.3]]):
        for epoch, value in enumerate(values, start=1):
            scheduler.judge(at(number, epoch, value))
    assert scheduler.ready([0, 1]) == [1]
    assert [number for number, _ in scheduler.overtaken()] == [0]


@given(values=st.lists(st.integers(0, 4), min_size=1, max_size=12), quantile=st.sampled_from([0.1, 0.25, 0.5]))
def test_at_most_a_share_makes_way_and_only_for_better_ones(values: list[int], quantile: float) -> None:
    scheduler = assembled([float(value) for value in values], quantile)
    ready = scheduler.ready(range(len(values)))
    beaten = dict(scheduler.overtaken())
    assert sorted([*ready, *beaten]) == list(range(len(values)))
    assert len(beaten) <= min(max(1, int(len(values) * quantile)), len(values) // 2)
    for number, verdict in beaten.items():
        assert values[verdict.numbers["donor"]] > values[number]
        assert all(values[other] >= values[number] for other in ready)
    if len(set(values)) == 1:
        assert not beaten


def test_the_order_of_the_reports_changes_nothing() -> None:
    values = [0.3, 0.1, 0.3, 0.2]
    found = []
    for order in permutations(range(4)):
        scheduler = assembled(values, order=order)
        found.append((scheduler.ready(range(4)), dict(scheduler.overtaken())))
    assert all(each == found[0] for each in found)


def test_a_copy_takes_part_from_the_next_generation_on() -> None:
    scheduler = assembled([0.1, 0.2, 0.3, 0.4])
    scheduler.ready(range(4))
    scheduler.end(0)
    scheduler.inherit(4, 3)
    assert scheduler.ready([1, 2, 3, 4]) == [3, 2, 1], "that it runs keeps nobody: it stands where they stand"
    for number in (3, 2, 1):
        scheduler.release(number)
    for epoch in (4, 5):
        assert scheduler.judge(at(4, epoch, 0.9)) is None
    assert scheduler.judge(at(4, 6, 0.9)).verdict == "waiting"
    assert scheduler.ready([1, 2, 3, 4]) == []


@pytest.mark.parametrize(("max_epochs", "generations"), [(12, 3), (11, 2), (6, 1), (5, 0), (-1, 4)])
def test_a_whole_interval_is_left_to_a_copy(max_epochs: int, generations: int) -> None:
    scheduler = PopulationBasedTraining(("max",), interval_epochs=3, quantile=0.25)
    waits = 0
    for epoch in range(1, 13):
        if scheduler.judge(at(0, epoch, 0.5, max_epochs)) is not None:
            waits += 1
            scheduler.release(0)
    assert waits == generations


def test_a_member_whose_checkpoint_was_lost_says_its_epoch_again_and_waits_again() -> None:
    scheduler = assembled([0.1, 0.2])
    assert scheduler.judge(at(1, 3, 0.2)).verdict == "waiting"
    assert scheduler.ready([0, 1]) == [1]


def test_a_member_whose_last_checkpoint_is_an_older_one_trains_until_it_waits_again() -> None:
    scheduler = assembled([0.1, 0.2])
    assert scheduler.judge(at(1, 2, 0.2)) is None
    assert scheduler.judge(at(1, 3, 0.2)).verdict == "waiting"
    assert scheduler.ready([0, 1]) == [1]


def test_a_population_does_better_than_its_members_would_alone() -> None:
    """On f(x) = −x², descended with a rate that is right only for a while (the toy of the paper's section 3 in one dimension):
    alone, a large rate never settles and a small one never arrives."""

    def train(x: float, rate: float) -> float:
        return x - rate * math.copysign(1.0, x)

    rates = [3.0, 1.0, 0.3, 0.01]

    def alone(rate: float) -> float:
        x = 50.37
        for _ in range(60):
            x = train(x, rate)
        return -(x**2)

    stopping = Stopping(scheduler="pbt", **{**SCHEDULER_OPTIONS["pbt"], "perturb": ["rate"], "perturb_factors": [0.5, 2.0]})
    distribution = Range("log_uniform", 0.001, 10.0)
    scheduler = PopulationBasedTraining(("max",), interval_epochs=3, quantile=0.25)
    members = {number: (50.37, rate) for number, rate in enumerate(rates)}
    made = len(members)
    for epoch in range(1, 61):
        members = {number: (train(x, rate), rate) for number, (x, rate) in members.items()}
        for number, (x, _) in members.items():
            scheduler.judge(at(number, epoch, -(x**2), max_epochs=60))
        scheduler.ready(list(members))
        for number, verdict in list(scheduler.overtaken()):
            x, rate = members[verdict.numbers["donor"]]
            scheduler.end(number)
            del members[number]
            members[made] = x, explored(distribution, rate, stopping, random.Random(f"{epoch} {number}"))
            scheduler.inherit(made, epoch)
            made += 1
        for number in list(scheduler.waiting):
            scheduler.release(number)
    best = max(-(x**2) for x, _ in members.values())
    assert best > max(map(alone, rates))


# What is perturbed


def options(**more: object) -> Stopping:
    return Stopping(scheduler="pbt", **{**SCHEDULER_OPTIONS["pbt"], "perturb": ["x"], "resample_probability": 0.0, **more})


@pytest.mark.parametrize(
    ("distribution", "value", "factors", "expected"),
    [
        (Range("log_uniform", 1e-4, 1e-1), 0.01, [0.8, 1.2], {0.008, 0.012}),
        (Range("log_uniform", 1e-4, 1e-1), 0.09, [1.2], {0.1}),
        (Range("uniform", 0.0, 1.0, 0.25), 0.5, [0.8, 1.2], {0.25, 0.75}),  # 0.4 and 0.6 are nearest to 0.5 itself
        (Range("int", 1, 9), 5, [0.8, 1.2], {4, 6}),
        (Range("int", 1, 9), 2, [0.8, 1.2], {1, 3}),
        (Range("log_int", 1, 100), 50, [0.5], {25}),
        (Range("int", 2, 10, 4), 6, [1.2], {10}),
        (PowerOfTwo(32, 512), 128, [0.8, 1.2], {64, 256}),
        (PowerOfTwo(32, 512), 512, [1.2], {512}),
        (Choice(("a", "b", "c")), "b", [0.8, 1.2], {"a", "c"}),
        (Normal(0.0, 1.0, -2.0, 2.0), 1.0, [3.0], {2.0}),
    ],
)
def test_a_value_moves_within_its_distribution(distribution, value, factors, expected) -> None:
    found = {explored(distribution, value, options(perturb_factors=factors), random.Random(seed)) for seed in range(20)}
    if isinstance(value, float):
        assert sorted(found) == pytest.approx(sorted(expected))
    else:
        assert found == expected
    assert all(distribution.canonical(each) == each for each in found)


def test_a_value_is_drawn_anew_now_and_then() -> None:
    always = options(resample_probability=1.0)
    found = {explored(PowerOfTwo(32, 512), 32, always, random.Random(seed)) for seed in range(60)}
    assert found == {32, 64, 128, 256, 512}


# In a sweep

TEXT = """
search: {trials: 4, seed: 3, sampler: random}
stopping: {scheduler: pbt, interval_epochs: 2, perturb: [model.optimizer.lr], guard: {mode: off}}
"""


def advance(study, report_epoch, save_last, number: int, epochs: range, value: float, max_epochs: int = 6):
    verdict = None
    for epoch in epochs:
        save_last(study.ledger.trial(number), epoch)
        verdict = report_epoch(study, number, epoch, value, max_epochs)
    return verdict


@pytest.fixture
def first_generation(make_ledger, open_study, report_epoch, save_last):
    """A sweep whose four members have come to the end of the first generation, the first of them the worst."""
    ledger = make_ledger(TEXT)
    study = open_study(ledger)
    for number in range(4):
        assert study.propose()["number"] == number
        study.begin(number)
        assert advance(study, report_epoch, save_last, number, range(1, 3), 0.1 * (number + 1)).verdict == "waiting"
    return study


def test_a_copy_starts_from_its_donor_and_its_own_epochs_are_its_own(first_generation, report_epoch, save_last) -> None:
    study = first_generation
    assignment = study.propose()
    assert assignment["number"] == 4
    loser, copy = (study.study.get_trials(deepcopy=False)[number] for number in (0, 4))
    assert loser.state == TrialState.PRUNED
    assert {name: copy.user_attrs[name] for name in ("replaces", "exploits", "to_epochs")} == {
        "replaces": 0,
        "exploits": 3,
        "to_epochs": 2,
    }
    donor = study.study.get_trials(deepcopy=False)[3]
    assert copy.params["model.optimizer.lr"] != donor.params["model.optimizer.lr"]
    assert assignment["overrides"][-1] == "restore.hyperparameters=config"
    files = study.ledger.trial(4)
    assert files.start_checkpoint.read_bytes() == files.last_checkpoint.read_bytes()
    study.begin(4)
    assert report_epoch(study, 4, 2, 0.4, 6, repeated=True) is None
    assert read_history(files.history) == []
    assert [study.propose()["number"] for _ in range(3)] == [3, 2, 1], "then the others go on"
    assert advance(study, report_epoch, save_last, 4, range(3, 5), 0.3).verdict == "waiting"
    copy = study.study.get_trials(deepcopy=False)[4]
    assert copy.intermediate_values == {3: 0.3, 4: 0.3}, "the best epoch of its donor is not its own"
    assert (study.target, study.ended["outranked"]) == (5, 1)


def test_a_copy_is_not_run_again_without_its_start_checkpoint(first_generation, console) -> None:
    ledger, number = first_generation.ledger, first_generation.propose()["number"]
    assert require_start(ledger, first_generation.trial(number)) == 3
    assert require_start(ledger, first_generation.trial(3)) is None
    ledger.trial(number).start_checkpoint.unlink()
    write_atomically(ledger.trial(number).checkpoints / REMOVED, "The quota has removed checkpoints of this trial.\n")
    with pytest.raises(LedgerError, match=r"trial 4 is a copy of trial 3: it starts from .*start.ckpt, .*\. The quota has"):
        debug("test", number, [], ledger.root, console)


def test_a_donor_is_waited_for_until_it_has_written_its_checkpoint(first_generation, save_last) -> None:
    study = first_generation
    study.leaving = lambda number: True
    save_last(study.ledger.trial(3), 1)  # as if it had been killed while it wrote
    assert study.propose() is None
    assert study.waiting, "there is more to come"
    trials = study.study.get_trials(deepcopy=False)
    assert awaited(study.ledger, trials)[0].number == 3
    study.leaving = lambda number: False
    assert study.propose()["number"] == 3, "it trains that epoch again"
    assert study.propose() is None
    save_last(study.ledger.trial(3), 2)
    assert study.propose()["number"] == 4


def test_a_failed_donor_that_left_nothing_fails_its_copy_alone(first_generation) -> None:
    study = first_generation
    study.ledger.trial(3).last_checkpoint.unlink()
    assert study.propose()["number"] == 3
    study.fail(3, {"error": "ValueError: no"})
    assert [study.propose()["number"] for _ in range(2)] == [2, 1]
    assert dict(study.ended) == {"outranked": 1, "failed": 2}
    assert "no checkpoint at" in study.study.get_trials(deepcopy=False)[4].user_attrs["verdict"]["reason"]


def test_who_comes_late_runs_by_itself(first_generation) -> None:
    study = first_generation
    study.study.enqueue_trial({"model.optimizer.lr": 0.01}, user_attrs={"retries": 0})
    study._asked_again += 1
    assert [study.propose()["number"] for _ in range(3)] == [4, 5, 3], "a retry keeps nobody waiting"


def test_a_perturbation_that_a_constraint_forbids_is_drawn_again(make_space) -> None:
    text = 'constraints: ["model.optimizer.lr < 0.011"]\nstopping: {scheduler: pbt, perturb: [model.optimizer.lr]}\n'
    space = make_space(text)

    donor = SimpleNamespace(params={"model.optimizer.lr": 0.01}, user_attrs={"parameters": 7})
    found = {population.perturbed(space, donor, random.Random(seed))["model.optimizer.lr"] for seed in range(50)}
    assert len(found) > 5
    assert max(found) < 0.011


def test_a_lineage_is_told_with_the_parameters_of_each_generation() -> None:
    class Trial:
        def __init__(self, number, rate, **attributes):
            self.number, self.params, self.user_attrs = number, {"lr": rate}, attributes

    trials = {0: Trial(0, 0.1), 4: Trial(4, 0.12, exploits=0, to_epochs=2), 6: Trial(6, 0.1, exploits=4, to_epochs=4, epochs=6)}
    assert population.told(trials, 0) == []
    assert population.told(trials, 6)[1:] == [
        "epochs 1 to 2: trial 0, lr=0.1",
        "epochs 3 to 4: trial 4, lr=0.12",
        "epochs 5 to 6: trial 6, lr=0.1",
    ]


# What is refused

REFUSED = {
    "stopping: {scheduler: pbt}": "stopping.perturb: is missing: which parameters a copy takes over changed, some of: model",
    "stopping: {scheduler: pbt, perturb: []}": "stopping.perturb: is empty: which parameters",
    "stopping: {scheduler: pbt, perturb: [model.optimizer.rl]}": "is no parameter of this space. Did you mean model.opt",
    "stopping: {scheduler: pbt, perturb: [model.optimizer.lr, model.optimizer.lr]}": "model.optimizer.lr stands here twice",
    "stopping: {scheduler: pbt, perturb: [seed]}": "seed cannot be perturbed: a seed is no hyperparameter",
    "stopping: {scheduler: pbt, perturb: [trainer.max_epochs]}": "trainer.max_epochs cannot be perturbed: the",
    "stopping: {scheduler: pbt, perturb: [model]}": "model cannot be perturbed: model.net.fc_hidden is active",
    "stopping: {scheduler: pbt, perturb: [model.optimizer.lr], quantile: 0.6}": "stopping.quantile: found 0.6",
    "stopping: {scheduler: pbt, perturb: [model.optimizer.lr], perturb_factors: [1.0, 1.2]}": "different numbers above 0",
    "stopping: {scheduler: asha, perturb: [model.optimizer.lr]}": "has no effect under asha",
}
SPACE = """
description: A test's space.
trial: [experiment=vimh, trainer.max_epochs=MAX]
objective: {metric: val/avg_acc, mode: max}
space:
  model: [vimh_mlp, vimh_cnn]
  model.net.fc_hidden: {choice: [16, 32], when: {model: vimh_cnn}}
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}
"""


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=REFUSED)
def test_what_no_copy_can_take_over_is_refused_with_its_line(make_space, text: str, message: str) -> None:
    with pytest.raises(SpaceError) as refused:
        make_space(SPACE.replace("MAX", "8") + text, base=False)
    assert message in str(refused.value)
    assert "test.yaml:9" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "values", "part"),
    [
        ("model.net.conv1_channels", "{int: [4, 8]}", "the network"),
        ("model.optimizer._target_", "[torch.optim.AdamW, torch.optim.Adam]", "the optimizer"),
        ("model.decay_vectors", "[true, false]", "the parameter groups of the optimizer"),
        ("model.scheduler_interval", "[epoch, step]", "when the learning rate is scheduled"),
    ],
)
def test_what_changes_the_checkpoint_is_refused_by_name(make_space, vimh_dataset, key: str, values: str, part: str) -> None:
    space = make_space(
        f"""
description: A test's space.
trial: [experiment=vimh, model=vimh_cnn, data.data_dir={vimh_dataset}, data.generate=null]
objective: {{metric: val/avg_acc, mode: max}}
space: {{{key}: {values}}}
stopping: {{scheduler: pbt, perturb: [{key}]}}
""",
        base=False,
    )
    with pytest.raises(SpaceError, match=f"{key} cannot be perturbed: between .* it changes {part}, and a copy inherits"):
        validate(space, samples=1)


def test_an_interval_that_leaves_no_second_one_is_refused(make_space, vimh_dataset) -> None:
    text = (
        SPACE.replace("MAX", f"3, data.data_dir={vimh_dataset}, data.generate=null")
        + "stopping: {scheduler: pbt, perturb: [model.optimizer.lr]}"
    )
    with pytest.raises(SpaceError, match=r"interval_epochs: is 2, and a trial ends after 3 epochs .* a whole interval more"):
        validate(make_space(text, base=False), samples=1)


def test_a_population_does_not_grow(make_ledger, console) -> None:
    from sweeps.more import extend

    ledger = make_ledger(TEXT)
    with pytest.raises(SweepError, match=r"--trials \+4: search.trials is the size of the population"):
        extend(ledger.name, "+4", {}, ledger.root, console)
    source = ledger.root.parent / "test.yaml"
    source.write_text(source.read_text().replace("trials: 4", "trials: 8"))
    from sweeps.edits import settle

    with pytest.raises(SpaceError, match=r"search\.trials: 4 → 8"):
        settle(ledger, console)
