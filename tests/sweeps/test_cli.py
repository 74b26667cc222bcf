"""The command line's answers to bad input, each before anything is started or written; and the small parts around a run."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys

import pytest
from ray.exceptions import OutOfMemoryError
from ray.tune.experiment import Trial
from rich.console import Console

from sweeps import cli, creation, debug, manifest, more, runner
from sweeps.errors import LedgerError, SweepError
from sweeps.groups import Groups
from sweeps.ledger import Ledger
from sweeps.progress import Progress
from sweeps.searcher import StudyScheduler
from sweeps.study import SweepStudy


def refused(arguments, capsys, monkeypatch) -> str:
    """What `python -m sweeps ARGUMENTS` says when it refuses, on one line."""
    monkeypatch.setattr(sys, "argv", ["sweeps", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_misspelt_space_lists_the_near_ones(capsys, monkeypatch):
    message = refused(["run", "quickstrat"], capsys, monkeypatch)
    assert message.startswith("error: There is no search space 'quickstrat'. Did you mean quickstart?")


def test_what_is_no_directory_of_sweeps_is_refused_before_anything_is_checked(tmp_path, capsys, monkeypatch, make_space):
    (tmp_path / "file").write_text("")
    message = refused(["list", "--runs", tmp_path / "file"], capsys, monkeypatch)
    assert message == f"error: {tmp_path / 'file'} is no directory: name the one that sweeps live in, with RUNS=…."
    make_space(name="mine")
    message = refused(["run", tmp_path / "mine.yaml", "--runs", tmp_path / "file"], capsys, monkeypatch)
    assert message.startswith(f"error: RUNS is {tmp_path / 'file'}, and that is a file")


@pytest.mark.parametrize("module", ["typer", "sweeps.schema", "sweeps.runner"])
def test_ctrl_c_while_it_starts_is_one_word_at_most(module, tmp_path):
    """By itself, once it has imported the module: from outside it might come when more has been said."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            spec = PathFinder.find_spec(name, path)\n"
        "            execute = spec.loader.exec_module\n"
        "            spec.loader.exec_module = lambda module: (execute(module), os.kill(os.getpid(), signal.SIGINT))\n"
        "            return spec\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "sweeps", "run", "quickstart", "--runs", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 130
    said = (done.stdout + done.stderr).splitlines()
    assert said in ([], ["interrupted"], ["interrupted before anything was written"]), said
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_ctrl_c_that_python_swallows_while_it_imports_is_not_forgotten(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            try:\n"
        "                os.kill(os.getpid(), signal.SIGINT)\n"
        "                for _ in range(1000): pass\n"
        "            except KeyboardInterrupt: pass\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    command = [sys.executable, "-m", "sweeps", "run", "quickstart", "--runs", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not (tmp_path / "runs").exists()


def test_a_misspelt_sweep_lists_the_near_ones(capsys, monkeypatch, make_ledger):
    ledger = make_ledger(name="mine")
    for command in (["resume", "mien"], ["extend", "mien", "--trials", "+1"], ["debug", "mien", "--trial", "0"]):
        message = refused([*command, "--runs", ledger.root], capsys, monkeypatch)
        assert "There is no sweep 'mien'" in message
        assert "Did you mean mine?" in message


def test_an_existing_directory_is_never_overwritten(make_ledger, make_space, tmp_path):
    ledger = make_ledger(name="mine")
    before = sorted(path.name for path in ledger.directory.iterdir())
    with pytest.raises(LedgerError, match="a sweep is never overwritten"):
        runner.run(str(tmp_path / "mine.yaml"), None, ledger.root, Console())
    assert sorted(path.name for path in ledger.directory.iterdir()) == before
    (ledger.root / "stranger").mkdir()
    with pytest.raises(LedgerError, match="exists and holds no sweep"):
        runner.run(str(tmp_path / "mine.yaml"), "stranger", ledger.root, Console())


def test_a_sweep_that_runs_is_not_to_be_resumed(make_ledger, console):
    ledger = make_ledger()
    with ledger.lock(), pytest.raises(LedgerError, match=rf"is being run by process {os.getpid()} on ") as found:
        runner.run("quickstart", ledger.name, ledger.root, console)
    assert "resume" not in str(found.value)


def test_a_place_that_cannot_be_written_is_named(make_space, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="file/ cannot be written"):
        creation.create_ledger(Ledger("mine", tmp_path / "file"), make_space())


def test_a_lost_trial_goes_on_and_one_lost_too_often_fails(make_ledger):
    study = SweepStudy(ledger := make_ledger(), ledger.space(), lambda overrides: 0)
    scheduler = StudyScheduler(study, groups := Groups(study))
    trial = Trial("no trainable", config={}, stub=True, storage=None)
    trial.config["group"] = groups.form(trial.trial_id)
    study.begin(0)
    trial.status = Trial.ERROR  # what Tune sets before it starts a trial again
    scheduler.on_trial_error(None, trial)
    assert (study.running, study.ended) == ({}, {})
    trial.status = Trial.RUNNING
    scheduler.on_trial_error(None, trial)
    assert study.ended == {"failed": 1}
    assert ledger.study().get_trials()[0].user_attrs["verdict"]["reason"].startswith("its process was lost too often")


def test_a_trial_that_ray_ended_for_memory_says_so(make_ledger):
    study = SweepStudy(ledger := make_ledger(), ledger.space(), lambda overrides: 0)
    groups = Groups(study)
    trial = Trial("no trainable", config={}, stub=True, storage=None)
    trial.config["group"] = groups.form(trial.trial_id)
    trial.get_error = lambda: OutOfMemoryError("Task was killed due to the node running low on memory.\nTo disable: …")
    StudyScheduler(study, groups).on_trial_error(None, trial)
    verdict = ledger.study().get_trials()[0].user_attrs["verdict"]
    assert verdict["reason"].startswith("its process was lost too often: OutOfMemoryError: ")
    assert verdict["failure"] == "oom"


def test_a_ledger_is_there_whole_or_not_at_all(make_space, tmp_path, monkeypatch):
    monkeypatch.setattr(creation, "create_study", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        creation.create_ledger(Ledger("mine", tmp_path / "runs"), make_space())
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("trials", "message"),
    [("many", "expected +N for N more, or N for N in all"), ("20", "has 20 trials already"), ("+0", "has 20 trials already")],
)
def test_extend_asks_for_more(make_ledger, trials, message):
    ledger = make_ledger()
    with pytest.raises(SweepError, match=re.escape(message)):
        more.extend("test", trials, None, ledger.root, Console())
    assert ledger.space().search.trials == 20


def test_extend_of_a_space_that_has_all_been_tried_is_refused(make_space, open_study, run_trial, capsys, monkeypatch, tmp_path):
    text = "description: d\ntrial: [experiment=vimh]\nobjective: {metric: val/avg_acc, mode: max}\n"
    text += "space: {model.optimizer.lr: [0.1, 0.2]}\nsearch: {sampler: grid}\nstopping: {scheduler: fifo}\n"
    ledger = Ledger("test", tmp_path / "runs")
    creation.create_ledger(ledger, make_space(text, base=False))
    study = open_study(ledger)
    for _ in range(2):
        run_trial(study, [0.5])
    message = refused(["extend", "test", "--trials", "+1", "--runs", ledger.root], capsys, monkeypatch)
    assert message.startswith(
        "error: --trials +1: every setting of the sweep 'test' has been tried, so that no more trials can run."
    )
    assert ledger.space().search.trials == 2


def test_debug_names_the_trials_that_there_are(make_ledger):
    ledger = make_ledger("constraints: [model.optimizer.lr < 0.003]\n")
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 0)
    ran = [study.propose()["number"] for _ in range(8)]
    rejected = next(number for number in range(max(ran)) if number not in ran)
    with pytest.raises(SweepError, match=f"Trial {rejected} of the sweep 'test' was never run"):
        debug.recorded_trial(ledger, rejected)
    with pytest.raises(
        SweepError, match=f"Trial 99 of the sweep 'test' does not exist. Trials that ran: {ran[0]} to {ran[-1]}"
    ):
        debug.recorded_trial(ledger, 99)
    assert debug.recorded_trial(ledger, ran[0]).user_attrs["overrides"][0] == "experiment=vimh"


@pytest.mark.parametrize("terminal", [True, False])
def test_debug_drops_into_the_debugger_when_the_terminal_is_one(make_space, tmp_path, monkeypatch, terminal):
    make_space(name="mine")
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweeps.trial.run_trial", lambda assignment, listener: 1 / 0)
    monkeypatch.setattr("pdb.post_mortem", lambda trace: seen.append(trace.tb_next.tb_frame.f_code.co_name))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal, raising=False)
    assert debug.debug(str(tmp_path / "mine.yaml"), None, ["seed=3"], tmp_path / "runs", Console(file=io.StringIO())) == 1
    assert seen == ["<lambda>"] * terminal


def test_a_manifest_tells_where_a_sweep_came_from():
    session = manifest.session(["python", "-m", "sweeps", "run", "two words"])
    assert session["command"] == "python -m sweeps run 'two words'"
    assert session["versions"]["torch"].startswith("2.13.0")
    assert session["machine"]["cpus"] >= 1
    assert session["machine"]["memory_gib"] > 0.1
    assert session["machine"]["processor"]
    assert isinstance(session["machine"]["gpus"], list)
    assert len(session["code"]["lock_sha256"]) == 64
    assert json.loads(json.dumps(session)) == session


def test_without_a_terminal_each_end_is_a_line(make_ledger):
    ledger = make_ledger("search: {trials: 4}\nstopping: {scheduler: fifo}\n")
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 0)
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    with Progress(study, console, concurrency=1) as progress:
        study.propose()
        message = {"epoch": 1, "max_epochs": 1, "parameters": 1, "seconds": 1.0, "metrics": {"val/avg_acc": 0.25}}
        study.report(0, {**message, "repeated": False})
        study.finish(0, {"metrics": {}, "seconds": 2.0})
        progress.update()
        study.propose()
        study.fail(1, {"error": "ValueError: [red]no[/]\nmore"})
        progress.update()
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("[1/4] trial 0 finished: ran all its 1 epochs · best val/avg_acc 0.25 (trial 0) · ")
    assert first.endswith(" left")
    assert second.startswith("[2/4] trial 1 failed: ValueError: [red]no[/] · best")


def test_a_trial_that_has_lost_its_process_is_a_line(make_ledger, console):
    ledger = make_ledger("search: {trials: 4}\nstopping: {scheduler: fifo}\n")
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 0)
    study.propose()
    study.begin(0)
    study.lost(0)
    with Progress(study, console, concurrency=1) as progress:
        progress.update()
    assert console.file.getvalue() == "trial 0 lost its process: it goes on from its last checkpoint in another\n"


def test_in_a_terminal_a_panel_counts_and_only_failures_are_lines(make_ledger):
    ledger = make_ledger("search: {trials: 4}\nstopping: {scheduler: fifo}\n")
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 0)
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    for number in range(3):
        study.propose()
        if number < 2:
            study.begin(number)
    study.fail(0, {"error": "ValueError: no"})
    with Progress(study, console, concurrency=1) as progress:
        progress.update()
    shown = console.file.getvalue()
    assert all(
        part in shown for part in ("1/4 trials", "0 finished", "0 pruned", "1 failed", "1 running", "running: 1 (epoch 0)")
    )
    assert "[1/4] trial 0 failed: ValueError: no" in shown
