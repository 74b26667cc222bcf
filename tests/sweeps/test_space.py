"""Search spaces: read, sampled, turned into overrides, written back."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from sweeps.errors import SpaceError
from sweeps.hydra_overrides import override
from sweeps.located_yaml import Document
from sweeps.samplers import make_sampler
from sweeps.space import (
    SearchSpace,
    complete_start,
    distributions,
    dump,
    load_space,
    overrides,
    sample,
    space_names,
    suggest,
    violated,
)
from sweeps.space_reader import read_space

optuna.logging.set_verbosity(optuna.logging.ERROR)

RICH = """
description: Everything at once.
trial: [experiment=vimh, trainer.max_epochs=20]
objective: {metric: val/avg_acc, mode: max}
space:
  depth: {int: [1, 3], when: {kind: deep, model: [cnn, vit]}}
  lr: {log_uniform: [1.0e-4, 1.0e-1]}
  heads: {power_of_two: [2, 8], when: {depth: 3}}
  model: [cnn, vit, mlp]
  kind: {choice: [deep, wide], when: {model: [cnn, vit]}}
  features: [[], [decay_time, x y]]
  dropout: {normal: [0.2, 0.1], clip: [0.0, 0.5]}
  width: {uniform: [0.0, 3.0], step: 0.25}
constraints:
  - lr * 10 < 0.5
  - depth < 3 or heads > 2
search: {sampler: random, trials: 7, seed: 3, start_with: [{heads: 4}, {features: [], lr: 0.01}]}
stopping: {scheduler: fifo, guard: {mode: shadow, patience: 4}}
resources: {cpu: 2, gpu: 0.25}
budget: {hours: 1.5}
"""


@pytest.fixture
def rich(make_space: Callable[..., SearchSpace]) -> SearchSpace:
    return make_space(RICH, base=False)


def test_a_parameter_comes_after_those_that_its_conditions_name(rich: SearchSpace) -> None:
    assert list(rich.parameters) == ["lr", "model", "kind", "depth", "heads", "features", "dropout", "width"]


def consistent(space: SearchSpace, chosen: dict[str, Any]) -> None:
    """Exactly the parameters are there whose conditions hold, and each value is held."""
    for key, parameter in space.parameters.items():
        active = all(other in chosen and chosen[other] in values for other, values in parameter.when)
        assert (key in chosen) == active
        if active:
            assert parameter.distribution.canonical(chosen[key]) == chosen[key]


def test_samples_hold_exactly_what_is_active(rich: SearchSpace) -> None:
    rng = random.Random(0)
    drawn = [sample(rich, rng) for _ in range(300)]
    for chosen in drawn:
        consistent(rich, chosen)
    assert {len(chosen) for chosen in drawn} == {5, 6, 7, 8}  # mlp; wide; deep; deep with depth 3


def test_suggest_holds_exactly_what_is_active_and_the_study_records_it(rich: SearchSpace) -> None:
    study = optuna.create_study(sampler=make_sampler(rich, 0))
    for _ in range(40):
        trial = study.ask()
        chosen = suggest(rich, trial)
        consistent(rich, chosen)
        assert trial.params == chosen
        for key in chosen:
            assert trial.distributions[key] == distributions(rich)[key]
        study.tell(trial, random.random())


def test_enqueued_starts_are_what_is_suggested(rich: SearchSpace) -> None:
    study = optuna.create_study(sampler=make_sampler(rich, 0))
    for start in rich.search.start_with:
        study.enqueue_trial(complete_start(rich, start))
    first, second = suggest(rich, study.ask()), suggest(rich, study.ask())
    assert {key: first[key] for key in ("model", "kind", "depth", "heads")} == {
        "model": "cnn",
        "kind": "deep",
        "depth": 3,
        "heads": 4,
    }
    assert second["features"] == "[]"
    assert second["lr"] == 0.01


NEEDY = """
  model: [mlp, sdn, cnn]
  lin1: {choice: [8, 16], when: {model: [mlp, sdn]}}
  lin2: {choice: [8, 16], when: {model: [sdn]}}
  conv: {choice: [8, 16], when: {model: cnn}}
  rate: {choice: [1, 2], when: {lin1: [8, 16], lin2: 16}}
"""
"""In line 7 and after it: the model that suits several parameters is not the first of each one's."""


@pytest.mark.parametrize(
    ("start", "complete"),
    [
        ({"lin1": 8, "lin2": 16}, {"model": "sdn", "lin1": 8, "lin2": 16}),
        ({"lin2": 16, "lin1": 8}, {"model": "sdn", "lin1": 8, "lin2": 16}),
        ({"lin1": 16}, {"model": "mlp", "lin1": 16}),
        ({"rate": 2}, {"model": "sdn", "lin1": 8, "lin2": 16, "rate": 2}),
        ({"lin1": 16, "rate": 2}, {"model": "sdn", "lin1": 16, "lin2": 16, "rate": 2}),
        ({}, {}),
    ],
)
def test_a_start_gets_what_all_of_its_parameters_need(
    make_space: Callable[..., SearchSpace], start: dict[str, Any], complete: dict[str, Any]
) -> None:
    space = make_space(NEEDY)
    assert complete_start(space, start) == complete
    for seed in range(20):
        drawn = sample(space, random.Random(seed), complete)
        consistent(space, drawn)
        assert {key: drawn[key] for key in complete} == complete


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("{lin1: 8, conv: 8}", "of model, conv needs 'cnn', lin1 needs 'mlp' or 'sdn'"),
        ("{model: mlp, rate: 1}", "of model, lin2 needs 'sdn', lin1 needs 'mlp' or 'sdn', and this setting has 'mlp'"),
    ],
)
def test_a_start_whose_parameters_are_never_active_together(
    make_space: Callable[..., SearchSpace], start: str, message: str
) -> None:
    with pytest.raises(SpaceError) as refused:
        make_space(f"{NEEDY}search:\n  start_with:\n    - {{lin1: 8}}\n    - {start}\n")
    (problem,) = refused.value.problems
    assert problem.where.endswith("test.yaml:16")
    assert problem.what == f"search.start_with.1: its parameters are never active together: {message}"


@given(st.data())
def test_a_part_of_any_trial_is_completed_to_a_trial(data: st.DataObject) -> None:
    """Whatever of a setting is given, there is a trial that has it; and completing adds no more the second time."""
    space = read_space(Document(Path("rich.yaml"), yaml.safe_load(RICH)), "rich")
    trial = sample(space, random.Random(data.draw(st.integers(0, 1000))))
    start = {key: trial[key] for key in data.draw(st.sets(st.sampled_from(list(trial))))}
    complete = complete_start(space, start)
    assert complete.items() >= start.items()
    assert complete_start(space, complete) == complete
    drawn = sample(space, random.Random(0), complete)
    consistent(space, drawn)
    assert drawn.items() >= complete.items()


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_normal_is_drawn_from_its_normal(make_space: Callable[..., SearchSpace], sampler: str) -> None:
    space = make_space(
        f"  dropout: {{normal: [0.2, 0.02], clip: [0.0, 1.0]}}\n"
        f"search: {{sampler: {sampler}, sampler_options: {'{n_startup_trials: 200}' if sampler == 'tpe' else '{}'}}}"
    )
    study = optuna.create_study(sampler=make_sampler(space, 0))
    drawn = []
    for _ in range(150):
        trial = study.ask()
        drawn.append(suggest(space, trial)["dropout"])
        study.tell(trial, 0.0)
    assert sum(0.14 < value < 0.26 for value in drawn) >= 145  # three deviations; an even draw would put 18 there
    assert len(set(drawn)) == 150


def test_tpe_still_learns_a_normal(make_space: Callable[..., SearchSpace]) -> None:
    space = make_space(
        "  x: {normal: [0.0, 1.0], clip: [-3.0, 3.0]}\nsearch: {sampler: tpe, sampler_options: {n_startup_trials: 8}}"
    )
    study = optuna.create_study(sampler=make_sampler(space, 0))
    found = []
    for _ in range(60):
        trial = study.ask()
        found.append(suggest(space, trial)["x"])
        study.tell(trial, (found[-1] - 2.0) ** 2)
    assert sum(abs(x - 2.0) < 0.7 for x in found[30:]) > 15  # of 30; the prior puts 9 % there


def test_overrides_give_hydra_the_values_that_were_meant(rich: SearchSpace) -> None:
    chosen = {"model": "cnn", "features": "[decay_time,x y]", "lr": 1e-05, "depth": 2}
    written = overrides(rich, chosen)
    assert written[:2] == ["experiment=vimh", "trainer.max_epochs=20"]
    parsed = OverridesParser.create().parse_overrides(written)
    assert {entry.key_or_group: entry.value() for entry in parsed[2:]} == {
        "model": "cnn",
        "features": ["decay_time", "x y"],
        "lr": 1e-05,
        "depth": 2,
    }


AWKWARD = st.sampled_from(
    [
        "true",
        "null",
        "1",
        "1e3",
        "nan",
        "a b",
        " a",
        "a,b",
        "[a]",
        "{a: 1}",
        "'",
        '"',
        "\\",
        "a\\'",
        "",
        "a=b",
        "$x",
        "é",
        "sum(1)",
        "#",
        "a:b",
    ]
)


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text("aB1 .,:'\"\\[]{}()=-_~+@$#%é\t", max_size=8),
        AWKWARD,
    )
)
def test_hydra_reads_back_every_value_with_its_type(value: Any) -> None:
    for given_value in (value, [value, "x", value]):
        read = OverridesParser.create().parse_override(override("some.key", given_value)).value()
        read = read.text if hasattr(read, "text") else read
        read = [item.text if hasattr(item, "text") else item for item in read] if isinstance(read, list) else read
        assert read == given_value
        assert type(read) is type(given_value)


def test_dump_is_read_back_to_an_equal_space(rich: SearchSpace, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(rich))
    read = load_space(copy)
    assert read == rich
    assert list(read.parameters) == list(rich.parameters)
    assert dump(read) == dump(rich)
    assert read.name == "copy"  # where it comes from does not make it another space


def test_spaces_that_differ_are_not_equal(make_space: Callable[..., SearchSpace]) -> None:
    assert make_space("search: {seed: 2}") != make_space("search: {seed: 3}")
    assert make_space("search: {seed: 2}") == make_space("search: {seed: 2}", name="other")


def test_defaults_are_filled_in_by_dump(make_space: Callable[..., SearchSpace], tmp_path: Path) -> None:
    text = dump(make_space())
    assert "scheduler: asha" in text
    assert "grace_epochs: 2" in text
    assert "sampler: tpe" in text


def test_a_space_survives_pickling(rich: SearchSpace) -> None:
    assert pickle.loads(pickle.dumps(rich)) == rich  # noqa: S301 - made in this line


def test_violated_names_the_first_broken_constraint_with_its_numbers(rich: SearchSpace) -> None:
    def size() -> int:
        raise AssertionError("no constraint asks for it")

    assert violated(rich, {"lr": 0.01, "model": "mlp"}, size) is None
    assert violated(rich, {"lr": 0.06, "model": "mlp"}, size) == "lr * 10 < 0.5 (lr = 0.06)"
    broken = violated(rich, {"lr": 0.01, "depth": 3, "heads": 2}, size)
    assert broken == "depth < 3 or heads > 2 (depth = 3, heads = 2)"


def test_violated_counts_the_network_once(make_space: Callable[..., SearchSpace]) -> None:
    calls = []

    def size() -> int:
        calls.append(1)
        return 100

    space = make_space("constraints: [parameters >= 100, parameters <= 200, parameters < 100]")
    assert violated(space, {"model.optimizer.lr": 0.1}, size) == "parameters < 100 (parameters = 100)"
    assert len(calls) == 1


def test_a_constraint_that_cannot_be_evaluated_says_where_it_stands(make_space: Callable[..., SearchSpace]) -> None:
    space = make_space("constraints:\n  - parameters > 0\n  - model.optimizer.lr < 'a'")
    with pytest.raises(SpaceError, match=r"test.yaml:9: the constraint .* cannot be evaluated"):
        violated(space, {"model.optimizer.lr": 0.1}, lambda: 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("trial: [experiment=vimh, seed=12]", 12), ("space: {seed: {int: [1, 5]}}", 4)],
)
def test_fixed_seed(tmp_path: Path, text: str, expected: int | None) -> None:
    (tmp_path / "_base.yaml").write_text(
        "description: x\nobjective: {metric: m, mode: min}\nspace: {seed: null, lr: {uniform: [0, 1]}}".replace(
            "seed: null, ", ""
        )
    )
    path = tmp_path / "space.yaml"
    path.write_text(f"extends: _base.yaml\n{text}\n")
    space = load_space(path)
    assert space.fixed_seed({"lr": 0.5, **({"seed": 4} if "seed" in space.parameters else {})}) == expected


class TestNames:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        for name in ("quickstart", "vimh_width", "_base"):
            (tmp_path / f"{name}.yaml").write_text(RICH)
        return tmp_path

    def test_underscored_files_are_not_listed(self, directory: Path) -> None:
        assert space_names(directory) == ["quickstart", "vimh_width"]

    def test_by_name_and_by_path(self, directory: Path) -> None:
        by_name = load_space("quickstart", directory)
        assert by_name.name == "quickstart"
        assert load_space(directory / "quickstart.yaml") == by_name == load_space(str(directory / "quickstart.yaml"))

    def test_a_misspelt_name_lists_the_near_ones(self, directory: Path) -> None:
        message = r"There is no search space 'quikstart'. Did you mean quickstart\? There are: quickstart, vimh_width."
        with pytest.raises(SpaceError, match=message):
            load_space("quikstart", directory)

    def test_a_misspelt_path_lists_the_near_ones(self, directory: Path) -> None:
        with pytest.raises(SpaceError, match=r"There is no file .*vimh_widht.yaml. Did you mean .*vimh_width.yaml\?"):
            load_space(directory / "vimh_widht.yaml")

    def test_an_empty_directory_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(SpaceError, match="holds none"):
            load_space("quickstart", tmp_path)
