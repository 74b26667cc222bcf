"""Trials of other sweeps: which are taken, what is refused and why, that the sampler alone sees them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import optuna
import pytest

from sweeps.attributes import FROM, own_trials
from sweeps.creation import create_ledger
from sweeps.errors import SpaceError
from sweeps.ledger import Ledger
from sweeps.overview import overview
from sweeps.schema import SearchSpace
from sweeps.space import dump
from sweeps.validation import validate
from sweeps.warm_start import sources

FIFO = "stopping: {scheduler: fifo}\n"
HEAD = "description: d\ntrial: [experiment=vimh, trainer.max_epochs=5]\nobjective: {metric: val/avg_acc, mode: max}\nspace:\n"


@pytest.fixture
def old(make_ledger) -> Ledger:
    """A sweep of twelve finished trials, with learning rates from 0.0001 to 0.1."""
    ledger = make_ledger("search: {trials: 12, sampler: random}\n" + FIFO, name="old")
    distribution = ledger.space().parameters["model.optimizer.lr"].distribution.to_optuna()
    for place in range(12):
        rate = {"model.optimizer.lr": min(0.1, 10 ** (-4 + 3 * place / 11))}
        trial = optuna.trial.create_trial(value=0.5, params=rate, distributions={"model.optimizer.lr": distribution})
        ledger.study().add_trial(trial)
    return ledger


@pytest.fixture
def new(make_space, old) -> Callable[..., SearchSpace]:
    """A function: parameters, and what comes after them → a space that starts from the sweep `old`."""

    def make(parameters: str = "  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}\n", text: str = "", more: str = ""):
        return make_space(f"{HEAD}{parameters}search: {{trials: 3, from: [old]{more}}}\n{FIFO}{text}", "new", base=False)

    return make


def test_finished_trials_inform_the_sampler_and_are_no_trials_of_the_sweep(new, old, open_study, run_trial):
    space = new()
    found = sources(space, old.root)
    told = found[0].told()
    assert told[0] == "from old: 12 finished trials inform the sampler"
    assert told[1].endswith("something else: no trainer.max_epochs there, trainer.max_epochs=5 here")
    ledger = Ledger("new", old.root)
    create_ledger(ledger, space, found)
    shutil.rmtree(old.directory)  # the new sweep needs it no more
    study = open_study(ledger)
    assert (study.started, study.target, study.complete, study.best) == (0, 3, False, None)
    assert run_trial(study, [0.1]) == 12
    run_trial(study, [0.2])
    study = open_study(ledger)
    assert run_trial(study, [0.05]) == 14
    assert (study.complete, study.best) == (True, (13, 0.2))
    seen = overview(ledger)
    assert (seen.ended.total(), seen.target, seen.best) == (3, 3, (13, 0.2))
    trials = ledger.study().get_trials()
    assert [trial.number for trial in own_trials(trials)] == [12, 13, 14]
    assert trials[3].user_attrs == {FROM: {"sweep": "old", "trial": 3}}
    assert sorted(path.name for path in ledger.trials_directory.iterdir()) == ["0012", "0013", "0014"]
    (record,) = ledger.manifest()["from"]
    assert (record["sweep"], record["trials"], record["left_out"], len(record["sha256"])) == ("old", 12, {}, 64)
    assert "from: [old]" in ledger.space_file.read_text()


def test_trials_that_do_not_fit_are_left_out_and_counted(new, old):
    rates = sorted(trial.params["model.optimizer.lr"] for trial in old.study().get_trials())
    space = new(f"  model.optimizer.lr: {{log_uniform: [{rates[4]!r}, 1.0]}}\n")
    (found,) = sources(space, old.root)
    assert [trial.params["model.optimizer.lr"] >= rates[4] for trial in found.trials] == [True] * 8
    assert found.left_out == {"model.optimizer.lr is out of range": 4}
    assert found.told()[0].endswith("8 finished trials inform the sampler; left out: 4 (model.optimizer.lr is out of range)")


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ("  model.optimizer.lr: {uniform: [1.0e-4, 1.0e-1]}\n", r"12 \(model\.optimizer\.lr has another distribution\)"),
        ("  model.optimizer.lr: {log_uniform: [0.5, 1.0]}\n", r"12 \(model\.optimizer\.lr is out of range\)"),
        ("  model: [vimh_mlp, vimh_cnn]\n", r"12 \(model is missing\)"),
    ],
)
def test_where_none_fits_it_is_said_why(new, old, parameters, why):
    space = new(parameters)
    with pytest.raises(SpaceError, match=rf"new\.yaml:6: search\.from\.0: no finished trial of the sweep 'old' fits .*: {why}"):
        sources(space, old.root)


def test_choices_must_be_the_same_and_conditions_hold(make_space, open_study, run_trial, tmp_path):
    def ledger(name: str, parameters: str) -> SearchSpace:
        return make_space(
            f"{HEAD}{parameters}search: {{trials: 4, sampler: random, seed: 5, SOURCES}}\n{FIFO}".replace(
                "SOURCES", "from: [a]" if name == "b" else "start_with: [{model: vimh_cnn}, {model: vimh_mlp}]"
            ),
            name,
            base=False,
        )

    conditional = "  model: [vimh_mlp, vimh_cnn]\n  data.target_width: {uniform: [0.0, 2.0], when: {model: vimh_cnn}}\n"
    first = Ledger("a", tmp_path / "runs")
    create_ledger(first, ledger("a", conditional))
    study = open_study(first)
    for _ in range(4):
        run_trial(study, [0.5])
    networks = [trial.params["model"] for trial in study.study.get_trials() if trial.state.name == "COMPLETE"]
    (found,) = sources(ledger("b", conditional), first.root)
    assert len(found.trials) == 4
    (found,) = sources(ledger("b", conditional.replace("vimh_cnn}", "vimh_mlp}")), first.root)
    assert [trial.params["model"] for trial in found.trials] == ["vimh_cnn"] * networks.count("vimh_cnn")
    assert found.left_out == {"data.target_width is missing": networks.count("vimh_mlp")}
    with pytest.raises(SpaceError, match=r"4 \(model has other choices\)"):
        sources(ledger("b", "  model: [vimh_mlp, vimh_sdn, vimh_cnn]\n"), first.root)


@pytest.mark.parametrize(
    ("source", "why"),
    [("odl", "There is no sweep 'odl' in .* Did you mean old"), ("./elsewhere/x", "./elsewhere/x is no sweep's directory")],
)
def test_a_sweep_that_is_missing_is_refused_with_its_line(make_space, old, source, why):
    space = make_space(f"search: {{from: [{source}]}}\n")
    with pytest.raises(SpaceError, match=rf"test\.yaml:7: search\.from\.0: {why}"):
        sources(space, old.root)


@pytest.mark.parametrize("path", [False, True])
def test_a_sweep_cannot_learn_from_itself(make_space, old, path):
    space = make_space(f"search: {{from: [{old.directory if path else 'old'}]}}\n")
    with pytest.raises(SpaceError, match=r"search\.from\.0: a sweep cannot learn from itself"):
        sources(space, old.root, old)


def test_a_path_does_as_well_as_a_name(make_space, old, tmp_path):
    space = make_space(f"search: {{from: [{old.directory}]}}\n")
    assert len(sources(space, tmp_path / "none")[0].trials) == 12


def test_other_objectives_are_refused(make_space, old):
    text = HEAD.replace("val/avg_acc, mode: max", "val/loss, mode: min")
    space = make_space(f"{text}  model.optimizer.lr: {{log_uniform: [1.0e-4, 1.0e-1]}}\nsearch: {{from: [old]}}\n", base=False)
    with pytest.raises(SpaceError, match=r"optimises val/avg_acc \(max\), and this space val/loss \(min\)"):
        sources(space, old.root)


def test_a_sweep_without_a_finished_trial_teaches_nothing(make_ledger, make_space, old):
    make_ledger(FIFO, name="empty")
    with pytest.raises(SpaceError, match="the sweep 'empty' has no finished trial to learn from"):
        sources(make_space("search: {from: [empty]}\n"), old.root)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsgaii"])
def test_the_samplers_that_learn_start_from_them(make_ledger, make_space, open_study, tmp_path, sampler):
    """Of 40 trials, those near 0.5 were best: the next ones are near it, and not spread over the range."""
    options = {"nsgaii": "population_size: 30, mutation_prob: 0.0"}.get(sampler, "")
    text = "  data.target_width: {uniform: [0.0, 3.0]}\n  data.noise: {uniform: [0.0, 1.0]}\n"
    first = make_ledger(text + FIFO, name="old")
    study = first.study()
    distributions = {key: each.distribution.to_optuna() for key, each in first.space().parameters.items()}
    for place in range(40):
        width = 3.0 * place / 39
        params = {"model.optimizer.lr": 0.01, "data.target_width": width, "data.noise": 0.5}
        study.add_trial(optuna.trial.create_trial(value=-abs(width - 0.5), params=params, distributions=distributions))
    search = f"search: {{sampler: {sampler}, from: [old], sampler_options: {{{options}}}}}\n"
    space = make_space(text + search + FIFO, "new")
    ledger = Ledger("new", first.root)
    create_ledger(ledger, space, sources(space, first.root))
    driver = open_study(ledger)
    numbers = [driver.propose()["number"] for _ in range(6)]
    widths = [driver.study.get_trials()[number].params["data.target_width"] for number in numbers]
    assert sorted(abs(width - 0.5) for width in widths)[3] < 0.6, widths


def test_what_cannot_start_from_others_is_refused_or_told(make_space, old):
    with pytest.raises(SpaceError, match=r"search\.from: cmaes with use_separable_cma cannot start"):
        make_space("search: {sampler: cmaes, sampler_options: {use_separable_cma: true}, from: [old]}\n")
    with pytest.raises(SpaceError, match=r"search\.from\.1: old stands here twice"):
        make_space("search: {from: [old, old]}\n")
    few = f"{HEAD}  model.optimizer.lr: {{log_uniform: [1.0e-2, 1.0e-1]}}\nsearch: {{sampler: cmaes, from: [old]}}\n"
    with pytest.raises(
        SpaceError, match=r"search\.from: cmaes starts from 10 trials of other sweeps or more, and of these \d fit"
    ):
        sources(make_space(few, "few", base=False), old.root)
    for sampler in ("random", "qmc"):
        notes = validate(make_space(f"search: {{sampler: {sampler}, from: [old]}}\n"), 1).notes
        assert f"{sampler} does not learn: the trials of other sweeps (search.from) change nothing" in notes


def test_it_is_written_as_it_was_read(make_space):
    space = make_space("search: {from: [old, ../runs/other]}\n")
    assert make_space(dump(space), "again", base=False) == space
