"""A study in each storage: what is written there, what of it is damaged or gone, and a server that stops and starts."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request

import psycopg
import pytest
from optuna.storages import BaseStorage, RDBStorage
from rich.console import Console

from analysis.load import load
from sweeps import creation, places
from sweeps.dashboard import dashboard_server, show_dashboard
from sweeps.database import Patience, StudyDatabase
from sweeps.errors import LedgerError, SweepError, Unreachable
from sweeps.ledger import Ledger
from sweeps.overview import overview
from sweeps.status import show_list
from sweeps.storage import check, wait_for

STORAGES = ["sqlite", "journal", "postgresql"]
EVERYWHERE = pytest.mark.parametrize("storage", STORAGES, indirect=True)
IN_FILES = pytest.mark.parametrize("storage", STORAGES[:2], indirect=True)
IN_A_DATABASE = pytest.mark.parametrize("storage", STORAGES[2:], indirect=True)
SPACE = "search: {trials: 4, seed: 3, start_with: [{model.optimizer.lr: 0.01}]}\nstopping: {scheduler: fifo}\n"
FILES = {"sqlite": "study.db", "journal": "study.journal"}


def found(ledger):
    """All that a study holds of its trials but times."""
    return [
        (trial.number, trial.state.name, trial.values, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in Ledger(ledger.name, ledger.root).study().get_trials()
    ]


@EVERYWHERE
def test_a_sweep_lives_in_each_storage(make_ledger, open_study, run_trial, report_epoch, storage, console, request):
    ledger = make_ledger(SPACE)
    assert [file for file in FILES.values() if (ledger.directory / file).exists()] == (
        [FILES[storage]] if storage in FILES else []
    )
    study = open_study(ledger)
    run_trial(study, [0.1, 0.5])
    study.fail(study.propose()["number"], {"error": "ValueError: no"})
    report_epoch(study, study.propose()["number"], 1, 0.25)
    again = open_study(Ledger("test", ledger.root))  # the first driver was killed
    assert (again.ended, again.interrupted, again.best) == ({"finished": 1, "failed": 1}, 1, (0, 0.5))
    assert again.propose()["number"] == 2
    report_epoch(again, 2, 2, 0.75, max_epochs=2)
    again.finish(2, {"metrics": {}, "seconds": 2.0})
    seen = overview(Ledger("test", ledger.root))
    assert (seen.state, seen.ended, seen.best) == ("interrupted", {"finished": 2, "failed": 1}, (2, 0.75))
    trials = load("test", ledger.root).trials
    assert trials["state"].tolist() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials["model.optimizer.lr"][0] == 0.01
    show_list(ledger.root, console)
    assert "3/4" in console.file.getvalue()
    if storage == "postgresql":
        written = b"".join(path.read_bytes() for path in ledger.directory.rglob("*") if path.is_file())
        assert not any(secret in written for secret in request.getfixturevalue("postgresql").secrets)


@EVERYWHERE
def test_the_dashboard_shows_the_trials_and_changes_nothing(make_ledger, open_study, run_trial, storage):
    ledger = make_ledger(SPACE)
    run_trial(open_study(ledger), [0.1, 0.5])
    before = found(ledger)
    with dashboard_server(Ledger("test", ledger.root), port=0) as server:
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        studies = json.load(urllib.request.urlopen(f"{base}/api/studies"))["study_summaries"]
        number = next(study["study_id"] for study in studies if study["study_name"] == ledger.study_name)
        shown = json.load(urllib.request.urlopen(f"{base}/api/studies/{number}"))
        assert [(trial["number"], trial["state"], trial["values"]) for trial in shown["trials"]] == [(0, "Complete", [0.5])]
        assert b"<html" in urllib.request.urlopen(f"{base}/dashboard/studies/{number}").read()
        for method in ("DELETE", "POST", "PUT"):
            with pytest.raises(urllib.error.HTTPError, match="405"):
                urllib.request.urlopen(urllib.request.Request(f"{base}/api/studies/{number}", method=method, data=b"{}"))
        server.shutdown()
    assert found(ledger) == before


def test_the_dashboard_takes_another_port_unless_it_was_told_which(make_ledger, console, monkeypatch):
    ledger = make_ledger(SPACE)

    def interrupt():
        while "/dashboard/studies/" not in console.file.getvalue():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    monkeypatch.setattr("sweeps.dashboard.PORT", 0)
    with dashboard_server(ledger) as first:
        monkeypatch.setattr("sweeps.dashboard.PORT", first.server_port)
        with dashboard_server(ledger) as second:
            assert second.server_port not in (0, first.server_port)
            threading.Thread(target=interrupt, daemon=True).start()
            show_dashboard(ledger, console)
            assert f"test: http://127.0.0.1:{second.server_port}" not in console.file.getvalue()
            assert "/dashboard/studies/" in console.file.getvalue()
        with pytest.raises(SweepError, match=rf"cannot listen on 127\.0\.0\.1, port {first.server_port} .*Without --port"):
            dashboard_server(ledger, port=first.server_port)
    with pytest.raises(SweepError, match=r"port 70000 .*expected 0"):
        dashboard_server(ledger, port=70000)
    with pytest.raises(SweepError, match=r"^192\.0\.2\.1 is no address of this machine: expected one, such as 127\.0\.0\.1\.$"):
        dashboard_server(ledger, "192.0.2.1", 0)
    with pytest.raises(SweepError, match=r"^There is no address 'not\.a host' to listen on"):
        dashboard_server(ledger, "not.a host", 0)


@IN_FILES
def test_a_study_that_is_missing_or_no_study_is_named(make_ledger, storage):
    ledger = make_ledger(SPACE)
    file = ledger.directory / FILES[storage]
    content = file.read_bytes()
    for damage in (
        b"no study" * 100 + b"\n" + content,
        b"[1]\n" + content,
        content.replace(b"\n", b"}\n", 1)[: len(content) // 2],
    ):
        if storage == "sqlite" and damage.startswith(content[:100]):
            damage = content[:1000]
        file.write_bytes(damage)
        with pytest.raises(
            LedgerError, match=f"{FILES[storage]} (is damaged near line 1|cannot be opened).*restore it from a copy"
        ):
            Ledger("test", ledger.root).study()
        assert file.read_bytes() == damage
    file.unlink()
    with pytest.raises(LedgerError, match=f"{FILES[storage]} is missing"):
        Ledger("test", ledger.root).study()
    assert not file.exists()


@pytest.mark.parametrize("storage", ["journal"], indirect=True)
def test_what_a_killed_driver_left_of_a_journal_s_line_and_lock_is_cleared_away(make_ledger, open_study, run_trial, storage):
    ledger = make_ledger(SPACE)
    run_trial(open_study(ledger), [0.1, 0.5])
    before = found(ledger)
    file = ledger.directory / "study.journal"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":8,"worker_id":"x","trial_id":0,"us')
    (ledger.directory / "study.journal.lock").touch()
    assert found(ledger) == before  # looking clears nothing away
    assert file.read_bytes() != whole
    start = time.monotonic()
    run_trial(open_study(Ledger("test", ledger.root)), [0.3])
    assert time.monotonic() - start < 20  # Optuna waits 30 s for a lock that nobody holds
    assert [trial[2] for trial in found(ledger)] == [[0.5], [0.3]]


def test_a_sweep_from_before_there_was_a_choice_is_in_sqlite_under_its_own_name(make_ledger, tmp_path):
    ledger = make_ledger(SPACE)
    record = ledger.manifest()
    ledger.write_manifest({name: value for name, value in record.items() if name not in {"storage", "study"}})
    assert len(Ledger("test", ledger.root).study().get_trials()) == 1
    ledger.write_manifest(record)
    shutil.move(ledger.directory, ledger.root / "renamed")
    assert len(Ledger("renamed", ledger.root).study().get_trials()) == 1
    (ledger.root / "renamed" / "manifest.json").write_text('{"storage": "sqlit"}')
    with pytest.raises(LedgerError, match=r"manifest\.json: storage: 'sqlit' is no place for a study"):
        Ledger("renamed", ledger.root).study()


def test_every_call_of_a_storage_outlives_the_loss_of_the_connection():
    calls = {name for name in BaseStorage.__abstractmethods__ | {"_create_new_trial", "_get_trials", "_set_trial_param"}}
    calls -= {"create_new_trial", "get_all_trials", "set_trial_param"}  # they call those with a line before their names
    assert [name for name in calls if getattr(StudyDatabase, name) is getattr(RDBStorage, name)] == []


# PostgreSQL


@IN_A_DATABASE
def test_two_directories_share_a_database_and_a_driver_that_was_killed_leaves_nothing_in_the_way(
    make_space, postgresql, tmp_path, monkeypatch, storage
):
    space = make_space(SPACE)
    one, other = Ledger("test", tmp_path / "one"), Ledger("test", tmp_path / "other")
    for ledger in (one, other):
        creation.create_ledger(ledger, space)
    assert one.study_name != other.study_name
    assert one.manifest()["storage"] == postgresql.url
    names = {name for (name,) in postgresql.execute("SELECT study_name FROM studies")}
    assert {one.study_name, other.study_name} <= names
    with pytest.raises(LedgerError, match="has just been made by another driver"):
        creation.create_ledger(one, space)
    assert {name for (name,) in postgresql.execute("SELECT study_name FROM studies")} == names


@IN_A_DATABASE
def test_without_its_password_a_sweep_says_where_it_belongs(make_ledger, postgresql, monkeypatch, console, storage):
    ledger = make_ledger(SPACE)
    monkeypatch.setattr(places, "_withdrawn", {})
    for given, reason in ((None, "no password supplied"), ("wrong%20one", "password authentication failed")):
        monkeypatch.delenv("SWEEPS_STORAGE")
        monkeypatch.setenv("SWEEPS_STORAGE", postgresql.url.replace("@", f":{given}@") if given else "sqlite")
        with pytest.raises(Unreachable, match=reason) as refused:
            Ledger("test", ledger.root).study()
        assert "Its password is given by SWEEPS_STORAGE=" in str(refused.value)
        assert "wrong" not in str(refused.value)
    monkeypatch.setenv("PGPASSWORD", postgresql.password)
    monkeypatch.setenv("SWEEPS_STORAGE", "sqlite")
    assert len(Ledger("test", ledger.root).study().get_trials()) == 1
    show_list(ledger.root, console)
    assert "interrupted" in console.file.getvalue()


@IN_A_DATABASE
def test_a_database_that_is_not_there_is_refused_before_anything_is_made(
    make_space, postgresql, tmp_path, monkeypatch, storage
):
    for url, message in (
        (postgresql.secret_url.replace("sweeps%20of%20all", "nowhere"), 'database "nowhere" does not exist. Make it with'),
        (postgresql.secret_url.replace(str(postgresql.port), "1"), "refused.*Is the server running"),
        (f"{postgresql.secret_url}?colour=red", "invalid connection option"),
    ):
        monkeypatch.setenv("SWEEPS_STORAGE", url)
        for act in (
            lambda: check(places.chosen(None)),
            lambda: creation.create_ledger(Ledger("test", tmp_path / "runs"), make_space()),
        ):
            with pytest.raises(LedgerError, match=message) as refused:
                act()
            assert not any(secret.decode() in str(refused.value) for secret in postgresql.secrets)
    assert list((tmp_path / "runs").iterdir()) == []


@IN_A_DATABASE
def test_a_missing_driver_names_the_extra(make_space, monkeypatch, storage):
    import sys

    for name in [name for name in sys.modules if name.startswith("psycopg")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerError, match=r"pip install 'psycopg\[binary\]' \(the extra `postgres`"):
        check(places.chosen(None))


@pytest.fixture
def losing(monkeypatch):
    """A function: a ledger, and whether it is done → from now on every third commit of its storage loses the connection,
    after it was done or before. The list it returns grows with each loss."""

    def lose(ledger, done):
        dialect, losses, count = ledger.storage.engine.dialect, [], [0]
        commit = type(dialect).do_commit

        def lost(connection):
            count[0] += 1
            if count[0] % 3:
                commit(dialect, connection)
                return
            if done:
                commit(dialect, connection)
            losses.append(count[0])
            connection.driver_connection.close()
            raise psycopg.OperationalError("the connection is closed")

        monkeypatch.setattr(dialect, "do_commit", lost)
        return losses

    return lose


@IN_A_DATABASE
@pytest.mark.parametrize("done", [True, False])
def test_what_a_lost_connection_interrupts_is_done_once(
    make_ledger, open_study, run_trial, report_epoch, losing, done, storage
):
    outcomes = []
    for name, loses in (("calm", False), ("losing", True)):
        ledger = make_ledger(SPACE, name)
        losses = losing(ledger, done) if loses else []
        study = open_study(ledger)
        study.study.enqueue_trial({"model.optimizer.lr": 0.02})
        for _ in range(3):
            run_trial(study, [0.1, 0.5])
        study.fail(study.propose()["number"], {"error": "ValueError: no"})
        assert study.propose() is None
        assert len(losses) > 8 or not loses
        outcomes.append(found(ledger))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == 4


@IN_A_DATABASE
@pytest.mark.parametrize(
    "how", [signal.SIGQUIT, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGINT, signal.SIGKILL))]
)
def test_a_server_that_stops_and_starts_is_waited_for(make_ledger, open_study, run_trial, postgresql, how, storage):
    ledger, said = make_ledger(SPACE), []
    back = threading.Timer(1.5, postgresql.start)

    def tell(text):
        said.append(text)
        if len(said) == 1:  # it was missed
            back.start()

    wait_for(ledger.storage, Patience(tell))
    study = open_study(ledger)
    run_trial(study, [0.1, 0.5])
    postgresql.stop(how)
    try:
        run_trial(study, [0.3, 0.2])
    finally:
        back.join() if said else postgresql.start()
    run_trial(study, [0.4])
    waits, goes_on = said
    assert waits.startswith(f"{postgresql.url} does not answer (")
    assert waits.endswith("): waiting for it")
    assert goes_on.startswith(f"{postgresql.url} answers again after ")
    assert [trial[2] for trial in found(ledger)] == [[0.5], [0.3], [0.4]]


@IN_A_DATABASE
def test_a_server_that_stays_away_ends_the_sweep_and_is_told_in_the_list(
    make_ledger, open_study, run_trial, postgresql, storage, monkeypatch
):
    ledger = make_ledger(SPACE)
    study = open_study(ledger)
    run_trial(study, [0.1, 0.5])
    monkeypatch.setenv("SWEEPS_STORAGE", "sqlite")
    make_ledger(SPACE, "near")
    postgresql.stop(signal.SIGQUIT)
    try:
        wait_for(ledger.storage, Patience(print, seconds=0.1))
        for patience in (Patience(print, seconds=0.1), Patience(print, give_up=lambda: True)):
            wait_for(ledger.storage, patience)
            with pytest.raises(Unreachable, match=r"refused.*Is the server running"):
                study.propose()
        console = Console(record=True, width=300)
        show_list(ledger.root, console)
        text = console.export_text()
    finally:
        postgresql.start()
    near, far = [next(line for line in text.splitlines() if line.startswith(name)) for name in ("near", "test")]
    assert "interrupted" in near
    assert "unreadable" in far
    assert f"unreadable: {postgresql.url}: " in text
