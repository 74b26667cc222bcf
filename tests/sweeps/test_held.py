"""A study that a driver holds: what it has in memory is what Optuna itself reads where the study lives, after any history."""

from __future__ import annotations

import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from sweeps import storage as storage_module
from sweeps import tables
from sweeps.filesystems import local
from sweeps.held import held
from sweeps.ledger import Ledger
from sweeps.places import Place
from sweeps.storage import close, open_storage, writing_ahead

NUMBERS = st.floats(allow_nan=False, width=32)
RATE, SIZE, KIND = FloatDistribution(1e-4, 1.0, log=True), IntDistribution(1, 64), CategoricalDistribution(["a", None, 3, 0.5])
WAITING = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"rate": 0.25}}, user_attrs={"repeats": 0})
ACTIONS = st.one_of(
    st.tuples(
        st.just("user"), st.sampled_from(["verdict", "é"]), st.one_of(st.none(), NUMBERS, st.lists(st.text(), max_size=2))
    ),
    st.tuples(st.just("system"), st.sampled_from(["constraints:a", "b"]), st.dictionaries(st.text(max_size=3), NUMBERS)),
    st.tuples(st.just("report"), st.integers(1, 5), st.one_of(NUMBERS, st.just(math.nan))),
    st.tuples(st.just("end"), st.sampled_from(["COMPLETE", "PRUNED", "FAIL"]), NUMBERS),
    st.tuples(st.just("enqueue"), st.none(), st.none()),
)
HISTORIES = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.lists(ACTIONS, max_size=5)), max_size=8)


def say(study: optuna.Study, trial: optuna.Trial, action: tuple) -> bool:
    """Say one thing of a trial; whether it still runs."""
    what, name, value = action
    if what == "user":
        trial.set_user_attr(name, value)
    elif what == "system":
        study._storage.set_trial_system_attr(trial._trial_id, name, value)
    elif what == "report":
        study._storage.set_trial_intermediate_value(trial._trial_id, name, value)
    elif what == "enqueue":
        study.add_trial(WAITING)
    else:
        values = value if name == "COMPLETE" else None
        study.tell(trial, values, state=TrialState[name])
        return False
    return True


def facts(trials: list) -> list[tuple]:
    """All that a study holds of its trials; where it has moved to memory, their ids are others."""
    return [  # (SQLite knows no -0.0)
        (
            *(trial.number, trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs, trial.system_attrs),
            {step: str(value + 0.0) for step, value in trial.intermediate_values.items()},
            *(trial.datetime_start and trial.datetime_start.replace(microsecond=0), trial.datetime_complete),
        )
        for trial in trials
    ]


def as_optuna_reads(kind: str, directory: Path) -> optuna.Study:
    if kind == "journal":
        there: optuna.storages.BaseStorage = JournalStorage(JournalFileBackend(str(directory / "study.journal")))
    else:
        there = RDBStorage(f"sqlite:///{directory / 'study.db'}")
    return optuna.load_study(study_name="s", storage=there)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """By kind, a directory with a study of which nothing has been said."""
    directory = tmp_path_factory.mktemp("empty")
    for kind in ("sqlite", "journal"):
        (directory / kind).mkdir()
        home = open_storage(Place(kind), directory / kind, new=True)
        optuna.create_study(study_name="s", storage=home, direction="maximize")
        close(home)
    return directory


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@settings(max_examples=6, deadline=None, phases=[Phase.generate])  # each example makes a study: too slow to be shrunk
@given(HISTORIES)
def test_memory_and_what_is_written_agree_after_any_history(tmp_path_factory, empty, kind, history):
    directory = tmp_path_factory.mktemp("held")
    shutil.copytree(empty / kind, directory, dirs_exist_ok=True)
    home = open_storage(Place(kind), directory)
    with writing_ahead(home, Place(kind), directory):
        check_history(kind, directory, home, history)
    close(home)


def check_history(kind, directory, home, history):
    study, storage = held(optuna.load_study(study_name="s", storage=home), home)
    study.set_user_attr("metric", "val/avg_acc")
    running: list[optuna.Trial] = []
    for which, together, actions in history:
        if which == 0 or not running:
            with storage.together():
                running.append(study.ask({"rate": RATE, "kind": KIND} | ({"size": SIZE} if together else {})))
        trial = running[which % len(running)]
        if together:
            with storage.together():
                alive = all(say(study, trial, action) for action in actions)
        else:
            alive = all(say(study, trial, action) for action in actions)
        if not alive:
            running.remove(trial)
    expected = facts(study.get_trials())
    assert [each.number for each in storage.open()] == [
        each.number for each in study.get_trials() if not each.state.is_finished()
    ]
    assert facts(as_optuna_reads(kind, directory).get_trials()) == expected
    again, _ = held(optuna.load_study(study_name="s", storage=home), home)
    assert facts(again.get_trials()) == expected
    assert again.user_attrs == {"metric": "val/avg_acc"}
    if kind == "sqlite":
        trials = home.trials(1)
        for after, states in ((-1, [TrialState.RUNNING, TrialState.FAIL]), (2, None)):
            chosen = [each for each in trials if (states is None or each.state in states) and each._trial_id > after]
            with home.engine.connect() as connection:
                assert facts(tables.read(connection, 1, states, after)) == facts(chosen)
                besides = tables.read(connection, 1, states, after, {1, 99})
            assert len(besides) == len(chosen) + (after > -1 and bool(trials))


@pytest.fixture
def commits(monkeypatch):
    """A function: a ledger → a list that grows with each transaction of its study."""

    def watch(ledger):
        found: list[int] = []
        event.listen(ledger.storage.engine, "commit", found.append)
        return found

    return watch


def test_a_trial_is_as_many_transactions_as_it_has_steps(make_ledger, open_study, run_trial, commits):
    ledger = make_ledger("search: {trials: 9, seed: 3}\nstopping: {scheduler: fifo}\n")
    study = open_study(ledger)
    found = commits(ledger)
    run_trial(study, [0.1, 0.2, 0.3])
    assert len(found) == 1 + 3 + 2  # made, one report after another, its verdict, its state
    run_trial(study, [0.1] * 30)
    assert len(found) == 6 + 33


def test_an_error_ends_a_block_with_nothing_written(make_ledger, open_study):
    ledger = make_ledger()
    study = open_study(ledger)

    def fail() -> None:
        with study._storage.together():
            study.study.ask()
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert Ledger("test", ledger.root).study().get_trials() == []


def test_a_study_from_which_trials_were_removed_is_named(make_ledger, open_study, run_trial):
    ledger = make_ledger("search: {trials: 3, seed: 3}\nstopping: {scheduler: fifo}\n")
    study = open_study(ledger)
    for _ in range(2):
        run_trial(study, [0.1])
    with ledger.storage.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM trials WHERE number = 0")
    with pytest.raises(storage_module.StorageError, match="has no trial 0, but trial 1: trials were removed"):
        open_study(ledger)


# SQLite, written ahead


def mode(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_a_driver_writes_ahead_and_loses_nothing_when_it_is_killed(make_ledger, open_study, run_trial, tmp_path):
    ledger = make_ledger("search: {trials: 3, seed: 3}\nstopping: {scheduler: fifo}\n")
    file = ledger.directory / "study.db"
    with writing_ahead(ledger.storage, ledger.place, ledger.directory):
        study = open_study(ledger)
        run_trial(study, [0.1, 0.5])
        assert mode(file) == "wal"
        with ledger.storage.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
        other = Ledger("test", ledger.root)
        assert len(other.study().get_trials()) == 1  # whoever asks meanwhile sees it
        close(other.storage)
        shutil.copytree(ledger.directory, tmp_path / "killed" / "test")
    assert (mode(file), [path.name for path in ledger.directory.glob("study.db*")]) == ("delete", ["study.db"])
    killed = Ledger("test", tmp_path / "killed")
    assert (killed.directory / "study.db-wal").stat().st_size > 0
    assert facts(killed.study().get_trials()) == facts(ledger.study().get_trials())
    close(killed.storage)
    with writing_ahead(killed.storage, killed.place, killed.directory):
        run_trial(open_study(killed), [0.7])
    assert [trial.value for trial in killed.study().get_trials()] == [0.5, 0.7]
    close(killed.storage)
    assert mode(killed.directory / "study.db") == "delete"


def test_where_another_machine_may_look_on_nothing_is_written_ahead(make_ledger, monkeypatch):
    ledger = make_ledger()
    monkeypatch.setattr(storage_module, "local", lambda file: False)
    with writing_ahead(ledger.storage, ledger.place, ledger.directory):
        assert mode(ledger.directory / "study.db") == "delete"


def test_a_path_is_local_by_the_mount_that_is_nearest_to_it(tmp_path):
    home = tmp_path / "home of all"
    (home / "here").mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    spaced = str(home).replace(" ", "\\040")
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"40 22 0:40 / {spaced} rw shared:2 - nfs4 server:/home rw\n"
        f"41 40 8:2 / {spaced}/here rw - xfs /dev/sdb1 rw\n"
    )
    assert [local(path, mounts) for path in (tmp_path, home, home / "here")] == [True, False, True]
    assert not local(tmp_path, tmp_path / "none")
