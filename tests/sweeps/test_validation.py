"""The deep validation, on real configs and a real (small) dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import sweeps.validation
from lhtx.compose import Description, describe
from lhtx.errors import ConfigError
from sweeps.errors import SpaceError
from sweeps.space import SearchSpace
from sweeps.validated import Sizes, render
from sweeps.validation import validate

HEAD = """\
description: A test's space.
trial:
  - experiment=vimh
  - data.data_dir={directory}
  - data.generate=null
  - trainer.max_epochs=4
objective: {{metric: val/avg_acc, mode: max}}
space:
"""
"""Eight lines: what a test adds begins in line 9."""


@pytest.fixture
def make(make_space: Callable[..., SearchSpace], vimh_dataset: Path) -> Callable[..., SearchSpace]:
    """A function: the parameters' YAML → the space, on the small dataset; `old` in the text before it becomes `new`."""

    def make(parameters: str, old: str = "", new: str = "") -> SearchSpace:
        head = HEAD.format(directory=vimh_dataset)
        assert old in head
        return make_space(head.replace(old, new) + parameters if old else head + parameters, base=False)

    return make


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The override lists that get composed."""
    calls: list[tuple[str, ...]] = []

    def counting(overrides: list[str]) -> Description:
        calls.append(tuple(overrides))
        return describe(overrides)

    monkeypatch.setattr(sweeps.validation, "describe", counting)
    return calls


@pytest.fixture
def size(vimh_dataset: Path) -> Callable[..., int]:
    """A function: overrides → the parameters of the network."""

    def count(*overrides: str) -> int:
        return describe(["experiment=vimh", f"data.data_dir={vimh_dataset}", "data.generate=null", *overrides]).parameters

    return count


def test_a_sound_space_is_counted(make: Callable[..., SearchSpace], size: Callable[..., int]) -> None:
    space = make(
        "  model: [vimh_mlp, vimh_cnn]\n"
        "  model.net.fc_hidden: {choice: [16, 64], when: {model: vimh_cnn}}\n"
        "constraints: [model.net.fc_hidden < 32]\n"
    )
    found = validate(space, samples=8)
    small, mlp = size("model=vimh_cnn", "model.net.fc_hidden=16"), size("model=vimh_mlp")
    assert found.sizes == {"SimpleCNN": Sizes(small, small, small), "SimpleMLP": Sizes(mlp, mlp, mlp)}
    assert (found.parameters, found.conditional, found.constraints) == (2, 1, 1)
    assert found.rejected == pytest.approx(0.25, abs=0.05)  # half of the CNNs, which are half
    assert found.composed == 5  # base, two models, two widths: the draws are all among them


def test_a_constraint_on_the_size_is_judged_by_the_whole_setting(
    make: Callable[..., SearchSpace], described: list[tuple[str, ...]], size: Callable[..., int]
) -> None:
    """Half of the draws have the branch, half of these a wide one; without the branch its width changes nothing."""
    branch = "data.auxiliary_features=[decay_time]"
    narrow, wide = size(branch, "model.net.auxiliary_hidden_size=8"), size(branch, "model.net.auxiliary_hidden_size=4096")
    assert size("model.net.auxiliary_hidden_size=4096") == size() < narrow < wide
    space = make(
        "  data.auxiliary_features: [[], [decay_time]]\n"
        "  model.net.auxiliary_hidden_size: [8, 4096]\n"
        f"constraints: [parameters < {wide}]\n"
    )
    found = validate(space, samples=2)
    assert found.rejected == pytest.approx(0.25, abs=0.15)
    assert found.sizes["SimpleCNN"].maximum == narrow
    assert len(described) == found.composed == 1 + 2 + 2 + 4  # base, each value, all combinations: none twice


STARTS = {
    "rejected by what it gives": (
        "  seed: [1, 2]\nconstraints: [seed < 2]\nsearch:\n  start_with:\n    - {seed: 1}\n    - {seed: 2}",
        r":14: search.start_with.1: is rejected by the constraint seed < 2 \(seed = 2\)",
    ),
    "rejected with all that it leaves open": (
        "  seed: {int: [1, 4]}\n  data.batch_size: [8, 16]\nconstraints: [seed * data.batch_size < 32]\n"
        "search: {start_with: [{seed: 4}]}",
        r":12: search.start_with.0: is rejected in all of 2 ways to draw what it leaves open, in the last by the constraint",
    ),
    "too large a network": (
        "  model.net.fc_hidden: [16, 4096]\nconstraints: [parameters < 300_000]\n"
        "search: {start_with: [{model.net.fc_hidden: 4096}]}",
        r":11: search.start_with.0: is rejected by the constraint parameters < 300_000 \(parameters = ",
    ),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_start_that_no_trial_can_have(make: Callable[..., SearchSpace], case: str) -> None:
    text, message = STARTS[case]
    with pytest.raises(SpaceError, match=f"test.yaml{message}") as refused:
        validate(make(text), samples=1)
    assert len(refused.value.problems) == 1


def test_a_start_that_does_not_compose(make: Callable[..., SearchSpace], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the ends of its range nor the one draw show that."""

    def refusing(overrides: list[str]) -> Description:
        if "seed=7" in overrides:
            raise ConfigError("'seed=7' does not compose")
        return describe(overrides)

    monkeypatch.setattr(sweeps.validation, "describe", refusing)
    with pytest.raises(SpaceError, match=r"test.yaml:10: search.start_with.0: 'seed=7' does not compose$"):
        validate(make("  seed: {int: [1, 1000]}\nsearch: {start_with: [{seed: 7}]}"), samples=1)


def test_a_start_may_leave_open_what_a_constraint_looks_at(make: Callable[..., SearchSpace]) -> None:
    text = "  seed: {int: [1, 4]}\n  data.batch_size: [8, 16]\nconstraints: [seed * data.batch_size <= 32]\n"
    assert validate(make(text + "search: {start_with: [{seed: 4}]}"), samples=1).rejected == pytest.approx(0.25, abs=0.05)


FAULTS = {
    "misspelt key": (
        "  data.target_widht: {uniform: [0, 1]}",
        r":9: space.data.target_widht: .*'data.target_widht=0.0'.*Did you mean target_width",
    ),
    "misspelt option": (
        "  data.target_width: {uniform: [0, 1]}\n  model: [vimh_mlp, vimh_cn]",
        r":10: space.model: .*'model=vimh_cn'.*Did you mean vimh_cnn",
    ),
    "value that a class refuses": (
        "  data.target_width: {uniform: [-1, 1]}",
        r":9: space.data.target_width: .*target_width.*-1",
    ),
    "parameter without the condition that it needs": (
        "  model.optimizer.lr: {log_uniform: [0.001, 0.01]}\n  model: [vimh_mlp, vimh_cnn]\n  model.net.fc_hidden: [16, 32]",
        r":11: space.model.net.fc_hidden: .*\(in the setting .*model=vimh_mlp",
    ),
    "condition that does not make it compose": (
        "  model: [vimh_mlp, vimh_cnn]\n  model.net.fc_hidden: {choice: [16, 32], when: {model: [vimh_cnn, vimh_mlp]}}",
        r":10: space.model.net.fc_hidden: .*'model.net.fc_hidden=16'",
    ),
    "features that there are not": (
        "  data.auxiliary_features: [[], [decay_tim]]",
        r":9: space.data.auxiliary_features: .*decay_tim",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_does_not_compose_is_shown_at_its_line(make: Callable[..., SearchSpace], case: str) -> None:
    parameters, message = FAULTS[case]
    with pytest.raises(SpaceError, match=f"test.yaml{message}"):
        validate(make(parameters), samples=12)


def test_all_bad_values_are_shown_at_once(make: Callable[..., SearchSpace]) -> None:
    space = make("  data.target_widht: {uniform: [0, 1]}\n  model.net.fc_hiden: [1, 2]\n  seed: [1, 2]")
    with pytest.raises(SpaceError) as refused:
        validate(space)
    assert [problem.where.rpartition(":")[2] for problem in refused.value.problems] == ["9", "9", "10", "10"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("experiment=vimh", "experiment=vim", r":3: trial: .*experiment=vim.*Did you mean vimh"),
        ("trainer.max_epochs=4", "trainer.max_epoch=4", r":6: trial: .*max_epoch.*Did you mean max_epochs"),
    ],
)
def test_a_bad_trial_is_shown_at_its_line(make: Callable[..., SearchSpace], old: str, new: str, message: str) -> None:
    with pytest.raises(SpaceError, match=f"test.yaml{message}"):
        validate(make("  seed: [1, 2]", old, new))


def test_of_two_bad_overrides_the_first_is_shown(make: Callable[..., SearchSpace]) -> None:
    space = make("  seed: [1, 2]", "trainer.max_epochs=4", "trainer.max_epoch=4\n  - data.batchsize=1")
    with pytest.raises(SpaceError, match=r"test.yaml:6: trial: "):
        validate(space)


@pytest.mark.parametrize("metric", ["val/avg_ac", "test/avg_acc"])  # the test comes when all epochs are over
def test_a_metric_that_no_trial_logs_after_an_epoch(make: Callable[..., SearchSpace], metric: str) -> None:
    space = make("  seed: [1, 2]", "val/avg_acc", metric)
    with pytest.raises(SpaceError) as refused:
        validate(space)
    (problem,) = refused.value.problems
    assert problem.where.endswith("test.yaml:7")
    assert problem.what.startswith(f"objective.metric: no trial logs '{metric}' after an epoch. Did you mean")
    assert "val/avg_acc" in problem.what
    assert "val/loss" in problem.what


def test_a_grace_that_outlasts_the_trial(make: Callable[..., SearchSpace]) -> None:
    with pytest.raises(SpaceError, match=r"test.yaml:10: stopping.grace_epochs: is 4, and a trial ends after 4 epochs"):
        validate(make("  seed: [1, 2]\nstopping: {grace_epochs: 4}"))
    assert validate(make("  seed: [1, 2]\nstopping: {grace_epochs: 3}"), samples=1).parameters == 1


@pytest.mark.parametrize(
    ("stopping", "message"),
    [
        ("scheduler: median, grace_epochs: 9", "grace_epochs: is 9, and a trial ends after 4 epochs .*: median would never"),
        ("scheduler: constant, cutoff_epochs: 4", "cutoff_epochs: is 4, and a trial ends after 4 epochs .*: constant would"),
        ("scheduler: hyperband", "grace_epochs: times reduction_factor is 6, and a trial ends after 4 epochs .*: hyperband"),
    ],
)
def test_a_scheduler_that_would_never_stop_a_trial(make: Callable[..., SearchSpace], stopping: str, message: str) -> None:
    with pytest.raises(SpaceError, match=f"test.yaml:10: stopping.{message}"):
        validate(make(f"  seed: [1, 2]\nstopping: {{{stopping}}}"))


def test_hyperband_needs_a_number_of_epochs(make: Callable[..., SearchSpace]) -> None:
    endless = make("  seed: [1, 2]\nstopping: {scheduler: hyperband}", "max_epochs=4", "max_epochs=-1")
    with pytest.raises(SpaceError, match=r"test.yaml:10: stopping.scheduler: hyperband divides a trial's epochs"):
        validate(endless)


@pytest.mark.parametrize("constraint", ["seed > 2", "parameters < 10"])
def test_constraints_that_leave_nothing(make: Callable[..., SearchSpace], constraint: str) -> None:
    with pytest.raises(SpaceError, match=rf"test.yaml:10: constraints: all of \d+ draws are rejected by {constraint}"):
        validate(make(f"  seed: [1, 2]\nconstraints: [{constraint}]"), samples=2)


def test_chained_conditions_are_composed_with_what_they_need(
    make: Callable[..., SearchSpace], described: list[tuple[str, ...]]
) -> None:
    space = make(
        "  model: [vimh_mlp, vimh_cnn]\n"
        "  data.auxiliary_features: {choice: [[], [decay_time]], when: {model: vimh_cnn}}\n"
        "  model.net.auxiliary_hidden_size: {choice: [4, 8], when: {data.auxiliary_features: [[decay_time]]}}\n"
    )
    validate(space, samples=1)
    tails = {call[4:] for call in described}
    assert ("model=vimh_cnn", "data.auxiliary_features=[decay_time]", "model.net.auxiliary_hidden_size=8") in tails
    assert not any("model=vimh_mlp" in tail and len(tail) > 1 for tail in tails)


def test_a_fault_of_the_platform_is_not_hidden(make: Callable[..., SearchSpace], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(overrides: list[str]) -> Description:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sweeps.validation, "describe", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        validate(make("  seed: [1, 2]"))


def test_an_unexplained_refusal_points_at_the_trial(make: Callable[..., SearchSpace], monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(overrides: list[str]) -> Description:
        raise ConfigError("nothing composes")

    monkeypatch.setattr(sweeps.validation, "describe", refusing)
    with pytest.raises(SpaceError, match=r"test.yaml:2: trial: nothing composes"):
        validate(make("  seed: [1, 2]"))


def test_render_tells_what_was_found(make: Callable[..., SearchSpace]) -> None:
    found = validate(make("  seed: [1, 2]\nconstraints: [seed < 2]"), samples=3)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(found))
    text = console.export_text()
    assert "1 parameters, " in text
    assert "1 constraints reject" in text
    assert "SimpleCNN" in text
    assert f"{found.sizes['SimpleCNN'].median:,}" in text


def test_the_wrong_end_of_the_objective_is_refused(make_space, vimh_dataset) -> None:
    space = make_space(
        "description: d\n"
        f"trial: [experiment=vimh, 'data.data_dir={vimh_dataset}', data.generate=null]\n"
        "objective: {metric: val/loss, mode: max}\n"
        "space: {model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}}\n",
        base=False,
    )
    with pytest.raises(SpaceError, match=r"test\.yaml:3: objective\.mode: found 'max', but the best val/loss is its min"):
        validate(space, samples=1)


def test_what_a_sampler_does_not_search_is_said(make: Callable[..., SearchSpace]) -> None:
    parameters = "  seed: [1, 2]\n  model.net.fc_hidden: {int: [8, 16]}\nsearch: {sampler: cmaes, trials: 99}"
    found = validate(make(parameters), samples=1)
    assert found.notes == (
        "cmaes draws seed at random, by itself: it has no order for it",
        "the space holds 18 settings, and 99 trials are asked for: it ends with the last setting",
    )
    console = Console(width=200)
    with console.capture() as shown:
        console.print(render(found))
    assert "note: cmaes draws seed at random" in shown.get()
