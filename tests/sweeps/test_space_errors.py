"""Bad search spaces: each problem with its file, its line, what was found and what would have been accepted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.errors import SpaceError
from sweeps.located_yaml import Document
from sweeps.space import SearchSpace, load_space
from sweeps.space_reader import read_space

HEAD = """\
description: A space with one fault.
trial: [experiment=vimh]
objective: {metric: val/avg_acc, mode: max}
space:
  model: [vimh_mlp, vimh_cnn]
  lr: {log_uniform: [1.0e-4, 1.0e-1]}
  size: {choice: [8, 16], when: {model: vimh_cnn}}
"""
"""Seven lines: what a case adds begins in line 8."""

ADDED = {
    "unknown key": ("serach: {}", "8: serach: unknown key. Did you mean search? Accepted: description, extends, trial"),
    "unknown key within": (
        "stopping:\n  guard: {patiense: 3}",
        "9: stopping.guard.patiense: unknown key. Did you mean patience? Accepted: mode, explode_factor, min_peers, patience",
    ),
    "section that is no mapping": (
        "search: tpe",
        "8: search: a mapping with some of sampler, trials, seed, start_with, sampler_options, repeats, from is "
        "expected, found 'tpe'",
    ),
    "number for a mapping": (
        "search: {repeats: 3}",
        "8: search.repeats: found 3: a mapping such as {seeds: 3} is expected",
    ),
    "name for a list": ("search: {from: a}", "8: search.from: found 'a': a list such as [a] is expected"),
    "word for a mapping": (
        "stopping: {guard: loud}",
        "8: stopping.guard: found 'loud': a mapping with some of mode, explode_factor, min_peers, patience",
    ),
    "name for a list of mappings": ("search: {start_with: a}", "8: search.start_with: found 'a': input should be a valid list"),
    "wrong type": ("search: {trials: many}", "8: search.trials: found 'many': input should be a valid integer"),
    "a float for an integer": ("search: {trials: 1.5}", "8: search.trials: found 1.5: input should be a valid integer"),
    "a bool for an integer": ("resources: {cpu: true}", "8: resources.cpu: found true: input should be a valid integer"),
    "out of bounds": ("search: {trials: 0}", "8: search.trials: found 0: input should be greater than or equal to 1"),
    "not finite": ("budget: {hours: .inf}", "8: budget.hours: found inf: input should be a finite number"),
    "unknown option": (
        "search: {sampler: tpee}",
        "8: search.sampler: found 'tpee'. Did you mean tpe? Accepted: tpe, random, grid",
    ),
    "scheduler": (
        "stopping: {scheduler: asah}",
        "8: stopping.scheduler: found 'asah'. Did you mean asha? Accepted: fifo, asha, hyperband, median, constant, pbt.",
    ),
    "asha's option under fifo": (
        "stopping:\n  scheduler: fifo\n  grace_epochs: 3",
        "10: stopping.grace_epochs: has no effect under fifo: remove it, or choose a scheduler that takes it: asha, hyperband",
    ),
    "asha's option under median": (
        "stopping: {scheduler: median, tolerance: 1}",
        "8: stopping.tolerance: has no effect under median: remove it, or choose a scheduler that takes it: asha, hyperband",
    ),
    "no trial to go on": (
        "stopping: {scheduler: constant, top_k: 0}",
        "8: stopping.top_k: found 0: input should be greater than or equal to 1",
    ),
    "option of a guard that is off": (
        "stopping: {guard: {mode: off, patience: 3}}",
        "8: stopping.guard.patience: has no effect while the guard is off: remove it",
    ),
    "share of several GPUs": (
        "resources: {gpu: 1.5}",
        "8: resources.gpu: found 1.5: input should be less than or equal to 1",
    ),
    "two distributions": (
        "  x: {uniform: [0, 1], int: [0, 1]}",
        "8: space.x: one distribution is expected, found uniform and int. Accepted: choice, uniform",
    ),
    "no distribution": ("  x: {step: 1}", "8: space.x: one distribution is expected, found none. Accepted: choice"),
    "misspelt distribution": (
        "  x: {log_unifrom: [1, 2]}",
        "8: space.x.log_unifrom: unknown distribution. Did you mean log_uniform",
    ),
    "misspelt option": (
        "  x: {uniform: [1, 2], setp: 1}",
        "8: space.x.setp: does not go with uniform. Did you mean step? Accepted: uniform, step, when",
    ),
    "fixed value": (
        "  x: 3",
        "8: space.x: a list of options or a distribution is expected, found 3; what is fixed belongs under `trial`",
    ),
    "single option": ("  x: [3]", "8: space.x: at least two options are expected, found the list [3]"),
    "reversed range": (
        "  x:\n    uniform: [1, 0]",
        "9: space.x.uniform: the range [1.0, 0.0] is reversed: write [0.0, 1.0]",
    ),
    "empty range": ("  x: {int: [4, 4]}", "8: space.x.int: the range [4, 4] holds a single value"),
    "no key": ("  'x y': [1, 2]", "8: space.x y: an override key is expected, such as model, model.optimizer.lr"),
    "platform key": ("  threads: [1, 2]", "8: space.threads: is set by the platform: set resources.cpu instead"),
    "platform key with a plus": ("  +ckpt_path: [a, b]", "8: space.+ckpt_path: is set by the platform: an interrupted trial"),
    "condition on an unknown parameter": (
        "  x:\n    choice: [1, 2]\n    when: {modle: vimh_cnn}",
        "10: space.x.when.modle: there is no parameter modle. Did you mean model? Accepted: model, lr, size.",
    ),
    "condition on itself": ("  x: {choice: [1, 2], when: {x: 1}}", "8: space.x.when: the conditions go in a circle: x needs x"),
    "condition on a continuous parameter": (
        "  x: {choice: [1, 2], when: {lr: 0.01}}",
        "8: space.x.when.lr: lr is continuous, so it never takes a given value",
    ),
    "impossible value in a condition": (
        "  x: {choice: [1, 2], when: {model: [vimh_cnn, vimh_cn]}}",
        "8: space.x.when.model: 'vimh_cn' is not among the options. Did you mean vimh_cnn or vimh_mlp? Accepted: vimh_mlp",
    ),
    "no value in a condition": (
        "  x: {choice: [1, 2], when: {model: []}}",
        "8: space.x.when.model: at least one value is expected",
    ),
    "condition that is no mapping": (
        "  x: {choice: [1, 2], when: vimh_cnn}",
        "8: space.x.when: a mapping from a parameter to its value or values is expected, found 'vimh_cnn'",
    ),
    "cycle of conditions": (
        "  x: {choice: [1, 2], when: {y: 1}}\n  y: {choice: [1, 2], when: {z: 1}}\n  z: {choice: [1, 2], when: {x: 1}}",
        "8: space.x.when: the conditions go in a circle: x needs y needs z needs x",
    ),
    "conditions that contradict each other": (
        "  x: {choice: [1, 2], when: {size: 8, model: vimh_mlp}}",
        "8: space.x.when: is never active: its conditions ask for different values of model",
    ),
    "constraint on an unknown parameter": (
        "constraints:\n  - lr < 1\n  - modle == 'a'",
        "10: constraints.1: modle is no parameter of this space. Did you mean model? Accepted: lr, model, parameters, size.",
    ),
    "constraint that is none": ("constraints: [lr <]", "8: constraints.0: 'lr <' is no expression (invalid syntax)"),
    "constraints that are no list": (
        "constraints: lr < 1",
        "8: constraints: a list of expressions, such as [parameters <= 200_000] is expected, found 'lr < 1'",
    ),
    "start with an unknown parameter": (
        "search: {start_with: [{lr: 0.01}, {modle: x}]}",
        "8: search.start_with.1.modle: is no parameter of this space. Did you mean model? Accepted: model, lr, size.",
    ),
    "start outside a range": ("search: {start_with: [{lr: 1}]}", "8: search.start_with.0.lr: 1.0 lies outside [0.0001, 0.1]"),
    "start with an inactive parameter": (
        "search: {start_with: [{model: vimh_mlp, size: 8}]}",
        "8: search.start_with.0.size: is active only if model is 'vimh_cnn', and this setting has 'vimh_mlp'",
    ),
    "more starts than trials": (
        "search: {trials: 1, start_with: [{lr: 0.01}, {lr: 0.02}]}",
        "8: search.start_with: 2 settings to start with, but trials is 1",
    ),
    "unknown sampler option": (
        "search: {sampler_options: {n_startup: 3}}",
        "8: search.sampler_options.n_startup: is no option of tpe. Did you mean n_startup_trials? Accepted: n_startup",
    ),
    "option of another sampler": (
        "search: {sampler: random, sampler_options: {group: true}}",
        "8: search.sampler_options.group: is no option of random. There is none.",
    ),
    "sampler option of another type": (
        "search: {sampler_options: {n_startup_trials: 2.5}}",
        "8: search.sampler_options.n_startup_trials: found 2.5: input should be a valid integer",
    ),
    "groups without multivariate": (
        "search: {sampler_options: {multivariate: false}}",
        "8: search.sampler_options: groups of parameters are sampled together: set `group: false` too",
    ),
    "two variants of CMA-ES": (
        "search: {sampler: cmaes, sampler_options: {lr_adapt: true, with_margin: true}}",
        "8: search.sampler_options: only one of use_separable_cma, with_margin and lr_adapt can be on, found with_margin",
    ),
    "a sequence that there is not": (
        "search: {sampler: qmc, sampler_options: {qmc_type: sobel}}",
        "8: search.sampler_options.qmc_type: found 'sobel'. Did you mean sobol? Accepted: sobol, halton.",
    ),
    "grid over a continuous range": (
        "search: {sampler: grid}",
        "6: space.lr: is continuous, and grid lists every value: give it a step, or choose among a few",
    ),
    "normal without groups": (
        "  x: {normal: [0, 1]}\nsearch: {sampler_options: {group: false}}",
        "8: space.x.normal: a normal needs group, which sampler_options turn off",
    ),
}


@pytest.mark.parametrize("case", ADDED)
def test_one_fault_is_the_one_problem(make_space: Callable[..., SearchSpace], tmp_path: Path, case: str) -> None:
    added, expected = ADDED[case]
    with pytest.raises(SpaceError) as refused:
        make_space(HEAD + added, base=False)
    assert len(refused.value.problems) == 1, refused.value
    assert str(refused.value).startswith(f"{tmp_path / 'test.yaml'}:{expected}")


REPLACED = {
    "no description": ("description: A space with one fault.\n", "", ": description: a sentence that says what is asked"),
    "no objective": ("objective: {metric: val/avg_acc, mode: max}\n", "", ": objective: is missing: {metric: val/avg_acc"),
    "no mode": (", mode: max", "", ":3: objective.mode: is missing"),
    "misspelt mode": (
        "mode: max",
        "mode: maximum",
        ":3: objective.mode: found 'maximum'. Did you mean max? Accepted: max, min.",
    ),
    "no objective among several": ("{metric: val/avg_acc, mode: max}", "[]", ":3: objective: is missing: {metric: val/avg_acc"),
    "the same objective twice": (
        "{metric: val/avg_acc, mode: max}",
        "[{metric: a, mode: max}, {metric: a, mode: min}]",
        ":3: objective.1: a is an objective already",
    ),
    "misspelt mode of the second": (
        "{metric: val/avg_acc, mode: max}",
        "[{metric: a, mode: max}, {metric: b, mode: mim}]",
        ":3: objective.1.mode: found 'mim'. Did you mean min? Accepted: max, min.",
    ),
    "override that is none": ("experiment=vimh", "experiment", ":2: trial.0: the override 'experiment' cannot be read"),
    "override that is a sweep": ("experiment=vimh", "'a=1,2'", ":2: trial.0: the override 'a=1,2' lists several values"),
    "override of another type": ("[experiment=vimh]", "[3]", ":2: trial.0: a list of Hydra overrides, such as"),
    "trial that is no list": ("[experiment=vimh]", "experiment=vimh", ":2: trial: a list of Hydra overrides, such as"),
    "platform key": (
        "experiment=vimh",
        "trainer.accelerator=gpu",
        ":2: trial.0: trainer.accelerator is set by the platform: set resources.gpu or resources.mps instead",
    ),
    "key that is fixed and searched": (
        "experiment=vimh",
        "model=vimh_mlp",
        ":2: trial.0: model is fixed here and searched in ",
    ),
    "key that is fixed twice": ("experiment=vimh", "a=1, a=2", ":2: trial.1: a is set twice: first in "),
}


@pytest.mark.parametrize("case", REPLACED)
def test_one_replaced_part_is_the_one_problem(make_space: Callable[..., SearchSpace], tmp_path: Path, case: str) -> None:
    old, new, expected = REPLACED[case]
    assert old in HEAD
    with pytest.raises(SpaceError) as refused:
        make_space(HEAD.replace(old, new), base=False)
    assert len(refused.value.problems) == 1, refused.value
    assert str(refused.value).startswith(f"{tmp_path / 'test.yaml'}{expected}")


TWO = HEAD.replace("{metric: val/avg_acc, mode: max}", "[{metric: val/avg_acc, mode: max}, {metric: parameters, mode: min}]")


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        (
            "search: {sampler: cmaes}",
            "8: search.sampler: cmaes optimises one objective, and there are 2: use tpe, gp or nsgaii",
        ),
        ("stopping: {tolerance: 0.1}", "8: stopping.tolerance: is in one metric's unit, and there are 2 objectives"),
    ],
)
def test_what_is_made_for_one_objective(make_space: Callable[..., SearchSpace], added: str, expected: str) -> None:
    with pytest.raises(SpaceError, match=expected):
        make_space(TWO + added, base=False)
    assert len(make_space(TWO, base=False).objectives) == 2


def test_the_space_without_a_fault_is_accepted(make_space: Callable[..., SearchSpace]) -> None:
    assert list(make_space(HEAD, base=False).parameters) == ["model", "lr", "size"]


def test_an_empty_space(make_space: Callable[..., SearchSpace]) -> None:
    with pytest.raises(SpaceError, match=r"test.yaml:4: space: a mapping from override keys .* found nothing"):
        make_space(HEAD[: HEAD.index("  model")], base=False)


def test_every_problem_is_shown_in_the_order_of_lines(make_space: Callable[..., SearchSpace]) -> None:
    text = HEAD + "  x: {int: [2, 1]}\n  y: 3\nsearch: {trials: 0, sampler: gird}\nbudgt: {}\n"
    with pytest.raises(SpaceError) as refused:
        make_space(text, base=False)
    lines = [int(problem.where.rpartition(":")[2]) for problem in refused.value.problems]
    assert lines == [8, 9, 10, 10, 11]


def test_a_problem_in_an_extended_file_is_shown_there(tmp_path: Path) -> None:
    (tmp_path / "_base.yaml").write_text(HEAD + "search: {trials: 0}\n")
    (tmp_path / "child.yaml").write_text("extends: _base.yaml\nspace:\n  lr: {uniform: [1, 0]}\n")
    with pytest.raises(SpaceError) as refused:
        load_space("child", tmp_path)
    places = sorted(problem.where for problem in refused.value.problems)
    assert places == [f"{tmp_path / '_base.yaml'}:8", f"{tmp_path / 'child.yaml'}:3"]


SOUND: dict[str, Any] = {
    "description": "x",
    "trial": ["a=1"],
    "objective": {"metric": "m", "mode": "min"},
    "space": {
        "model": ["a", "b"],
        "lr": {"log_uniform": [0.1, 1.0]},
        "n": {"int": [0, 8], "step": 2, "when": {"model": "a"}},
        "d": {"normal": [0, 1], "clip": [-1, 1], "when": {"n": [2, 4], "model": "a"}},
        "p": {"power_of_two": [1, 8]},
    },
    "constraints": ["lr < p or parameters > 3"],
    "search": {"sampler": "tpe", "trials": 3, "start_with": [{"n": 2, "model": "a"}], "sampler_options": {"group": True}},
    "stopping": {"scheduler": "asha", "grace_epochs": 2, "guard": {"mode": "act", "patience": 2}},
    "resources": {"cpu": 1, "gpu": 0.5},
    "budget": {"hours": 1.0},
}


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, inner in steps for deeper in paths(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    """A copy of `value` with `junk` at `path`; the same, if an earlier change has left nothing there."""
    if not path:
        return copy.deepcopy(junk)
    if isinstance(value, dict) and path[0] in value:
        return {**value, path[0]: replaced(value[path[0]], path[1:], junk)}
    if isinstance(value, list) and isinstance(path[0], int) and path[0] < len(value):
        return [*value[: path[0]], replaced(value[path[0]], path[1:], junk), *value[path[0] + 1 :]]
    return value


NUMBERS = [0, -1, 3, 0.5, float("nan"), float("inf"), True]
TEXTS = ["", "a", "lr", "model", "x y", "1=2"]
LISTS = [[], [[]], [1], [{}], ["a", "b"], [0, 1]]
MAPPINGS = [{}, {"a": 1}, {"choice": [1, 2]}, {"when": {"lr": 1}}, {"uniform": [0, 1], "step": {}}, {"model": "a"}, {"n": None}]
JUNK = st.sampled_from([None, *NUMBERS, *TEXTS, *LISTS, *MAPPINGS])


@given(st.lists(st.tuples(st.sampled_from(paths(SOUND)[1:]), JUNK), min_size=1, max_size=3))
def test_whatever_stands_in_a_space_it_is_read_or_refused(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Never an exception of another kind: no type, no missing part and no combination may get past the checks."""
    changed = SOUND
    for path, junk in changes:
        changed = replaced(changed, path, junk)
    try:
        space = read_space(Document(Path("space.yaml"), changed), "space")
    except SpaceError:
        return
    assert set(space.parameters) == set(changed["space"])
