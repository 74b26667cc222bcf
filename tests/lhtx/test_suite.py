"""Suites of experiments: one table of them all, failures included, and a second start that does only what is left."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lhtx import suite
from lhtx.checkpoints import AtomicCheckpointIO
from lhtx.compose import CONFIGS, describe
from lhtx.errors import ConfigError
from lhtx.suite import SUITES, Ended, Member, main, markdown, members_of, run_suite


@pytest.fixture
def overrides(small_data, tmp_path) -> list[str]:
    """Of a suite in `tmp_path/logs/suite` whose members train in a moment."""
    tiny = ["model.net.fc_hidden=8", "trainer.max_epochs=2", "trainer.enable_progress_bar=false"]
    return [*small_data, f"paths.log_dir={tmp_path / 'logs'}", "trainer=cpu", "logger=none", "threads=1", *tiny]


@pytest.fixture
def trained(monkeypatch):
    """In the place of training: keeps what every member was started with, and does as the test says."""

    class Training:
        def __init__(self) -> None:
            self.calls: list[list[str]] = []
            self.ends = lambda output: Ended(0)

        def __call__(self, arguments, lock):
            self.calls.append(list(arguments))
            output = next(a.partition("=")[2].strip("'") for a in arguments if a.startswith("paths.output_dir="))
            return self.ends(Path(output))

        @property
        def experiments(self) -> list[str]:
            return [call[0].removeprefix("experiment=") for call in self.calls]

    training = Training()
    monkeypatch.setattr(suite, "_train", training)
    return training


def finish(output: Path) -> Ended:
    """Leaves what a finished training leaves."""
    (output / "metrics.json").write_text(json.dumps({"test/avg_acc": 0.5, "val/acc_best": 0.625}))
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "epoch": 1}, output / "checkpoints" / "last.ckpt")
    return Ended(0)


def test_every_member_of_every_suite_is_an_experiment():
    experiments = {path.stem for path in (CONFIGS / "experiment").glob("*.yaml")}
    for name, members in SUITES.items():
        assert set(members) <= experiments, name
        assert len(set(members)) == len(members)


def test_names_are_suites_experiments_or_both():
    assert members_of(["vimh"]) == list(SUITES["vimh"])
    assert members_of(["experiment=vimh", "vimh_cnn", "vimh_cnn"]) == ["vimh", "vimh_cnn"]
    assert members_of(["digits_cnn", "digits"]) == ["digits_cnn", *(name for name in SUITES["digits"] if name != "digits_cnn")]
    with pytest.raises(ConfigError, match=r"no suite or experiment is called 'cifar01'.*Did you mean cifar10"):
        members_of(["cifar01"])
    with pytest.raises(ConfigError, match="which suite"):
        members_of([])


@pytest.mark.slow
def test_members_are_trained_and_a_failing_one_stands_in_the_table(overrides, tmp_path, trained, monkeypatch, capfd):
    monkeypatch.undo()  # these are trained for real
    names = ["vimh_normalized_regression", "experiment=vimh"]
    overrides.append("model.loss._target_=lhtx.losses.CrossEntropy")  # which the first one's heads cannot have
    assert main([*names, *overrides, "--as", "both"]) == 1
    root = tmp_path / "logs" / "suite" / "both"
    failed, finished = list(csv.DictReader((root / "suite.csv").open()))
    assert failed["status"] == "failed"
    assert failed["error"].startswith("the loss of head 'note_number', CrossEntropy, needs logits")
    metrics = json.loads((root / "vimh" / "metrics.json").read_text())
    assert finished["status"] == "finished"
    assert float(finished["test_acc"]) == metrics["test/avg_acc"]
    assert float(finished["best_val_acc"]) == metrics["val/acc_best"]
    assert int(finished["epochs"]) == 2
    assert int(finished["parameters"]) == describe(["experiment=vimh", *overrides]).parameters
    assert float(finished["seconds"]) > 0
    table = (root / "suite.md").read_text()
    assert table in capfd.readouterr().out
    assert "vimh_normalized_regression failed: the loss of head" in table


def test_a_second_start_does_what_is_left(overrides, tmp_path, trained):
    trained.ends = lambda output: finish(output) if output.name == "vimh_cnn" else Ended(1, "ValueError: no")
    members, root = run_suite(["vimh_cnn", "vimh_ordinal"], overrides)
    assert root == tmp_path / "logs" / "suite" / "vimh_cnn+vimh_ordinal"
    assert [(m.status, m.test_acc, m.error) for m in members] == [("finished", 0.5, ""), ("failed", None, "ValueError: no")]
    trained.ends = finish
    members, _ = run_suite(["vimh_cnn", "vimh_ordinal"], overrides)
    assert trained.experiments == ["vimh_cnn", "vimh_ordinal", "vimh_ordinal"]
    assert [(m.status, m.best_val_acc, m.epochs, m.error) for m in members] == [("finished", 0.625, 2, "")] * 2
    run_suite(["vimh_cnn", "vimh_ordinal"], overrides)
    assert len(trained.calls) == 3


def test_an_interrupted_member_goes_on_from_its_checkpoint(overrides, tmp_path, trained, capsys):
    def interrupted(output: Path) -> Ended:
        finish(output)
        return Ended(130, interrupted=True)

    trained.ends = interrupted
    assert main(["vimh_cnn", "vimh_ordinal", *overrides]) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert trained.experiments == ["vimh_cnn"]
    root = tmp_path / "logs" / "suite" / "vimh_cnn+vimh_ordinal"
    assert [row["status"] for row in csv.DictReader((root / "suite.csv").open())] == ["interrupted", "planned"]
    before = json.loads((root / "vimh_cnn" / "member.json").read_text())["seconds"]
    trained.ends = finish
    members, _ = run_suite(["vimh_cnn", "vimh_ordinal"], overrides)
    last = root / "vimh_cnn" / "checkpoints" / "last.ckpt"
    assert trained.calls[1][-1] == f"ckpt_path='{last}'"
    assert not any("ckpt_path" in argument for argument in trained.calls[2])
    assert [member.status for member in members] == ["finished"] * 2
    assert members[0].seconds > before


@pytest.mark.parametrize("came_to_its_end", [True, False])
def test_an_interruption_ends_the_suite_whatever_status_the_member_ends_with(overrides, tmp_path, trained, came_to_its_end):
    def ends(output: Path) -> Ended:
        if came_to_its_end:
            finish(output)
        return Ended(0, interrupted=True)

    trained.ends = ends
    assert main(["vimh_cnn", "vimh_ordinal", *overrides]) == 130
    assert trained.experiments == ["vimh_cnn"]
    table = tmp_path / "logs" / "suite" / "vimh_cnn+vimh_ordinal" / "suite.csv"
    first = "finished" if came_to_its_end else "interrupted"
    assert [row["status"] for row in csv.DictReader(table.open())] == [first, "planned"]


@pytest.mark.parametrize("moment", ["before the process is there", "while it runs"])
def test_a_signal_is_handed_on_whenever_it_comes(monkeypatch, tmp_path, moment):
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(0)); "
        "print('ready', file=sys.stderr, flush=True); time.sleep(600)"
    )
    popen, interrupt = subprocess.Popen, lambda: os.kill(os.getpid(), signal.SIGINT)

    class Lines:
        """Standard error of the child; once it is ready it has its handler."""

        def __init__(self, stream) -> None:
            self.stream = stream

        def __iter__(self):
            for line in self.stream:
                if moment == "while it runs":
                    interrupt()
                yield line

    def start(command, **options):
        if moment == "before the process is there":
            interrupt()
        process = popen([sys.executable, "-c", code], **options)
        if moment == "while it runs":
            process.stderr = Lines(process.stderr)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    with (tmp_path / "lock").open("w") as lock:
        ended = suite._train([], lock)
    assert ended.interrupted
    assert time.monotonic() - started < 120
    assert signal.getsignal(signal.SIGINT) is before
    if moment == "while it runs":
        assert (ended.status, ended.said) == (0, "ready")


def test_results_of_another_config_are_neither_kept_nor_lost(overrides, trained):
    trained.ends = finish
    run_suite(["vimh_cnn"], overrides)
    with pytest.raises(ConfigError, match=r"vimh_cnn was trained with another config .*--as NAME"):
        run_suite(["vimh_cnn"], [*overrides, "seed=7"])
    members, root = run_suite(["vimh_cnn"], [*overrides, "seed=7"], called="seven")
    assert (members[0].status, root.name) == ("finished", "seven")
    trained.ends = lambda output: Ended(2, "error: no")
    run_suite(["vimh_ordinal"], overrides)
    trained.ends = finish
    members, _ = run_suite(["vimh_ordinal"], [*overrides, "seed=7"])  # it had nothing to lose
    assert members[0].status == "finished"


def test_what_cannot_run_is_refused_before_anything_does(overrides, tmp_path, trained, capsys):
    with pytest.raises(ConfigError, match=r"experiment=vimh_cnn: the override 'trainer\.max_epoch=3'.*max_epochs"):
        run_suite(["vimh_cnn"], [*overrides, "trainer.max_epoch=3"])
    for own in ("paths.output_dir=x", "ckpt_path=x", "task_name=x", "hydra.run.dir=x"):
        with pytest.raises(ConfigError, match="a suite sets"):
            run_suite(["vimh_cnn"], [*overrides, own])
    with pytest.raises(ConfigError, match="cannot be called 'a/b'"):
        run_suite(["vimh_cnn"], overrides, called="a/b")
    with pytest.raises(SystemExit) as stop:
        main(["nothing"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no suite or experiment is called 'nothing'")
    assert not trained.calls
    trained.ends = finish
    run_suite(["vimh_cnn"], overrides, called="one")
    root = tmp_path / "logs" / "suite" / "one"
    (root / "vimh_cnn" / "member.json").write_text('{"experiment": "vimh_cnn", "colour": "red"}')
    with pytest.raises(ConfigError, match=r"member\.json is damaged .*colour"):
        run_suite(["vimh_cnn"], overrides, called="one")


def test_two_suites_do_not_share_a_directory(overrides, tmp_path, trained):
    trained.ends = finish
    _, root = run_suite(["vimh_cnn"], overrides)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="a suite is running in"):
            run_suite(["vimh_cnn"], overrides)


def test_the_markdown_table():
    members = [
        Member(
            "a", status="finished", network="Net", parameters=12345, epochs=3, best_val_acc=0.75, test_acc=1.0, seconds=61.4
        ),
        Member("b_longer", status="failed", error="no data"),
    ]
    assert markdown(members).splitlines() == [
        "| experiment | network | parameters | epochs | best val acc | test acc |       time | status   |",
        "| ---------- | ------- | ---------: | -----: | -----------: | -------: | ---------: | -------- |",
        "| a          | Net     |     12,345 |      3 |       0.7500 |   1.0000 | 1 min 01 s | finished |",
        "| b_longer   |         |            |        |              |          |            | failed   |",
        "",
        "b_longer failed: no data",
    ]


BRAKE = """
import time
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Brake(Callback):
    '''Waits before the third epoch, and says so, for as long as there is a file `brake`.'''

    def on_train_epoch_start(self, trainer, pl_module):
        brake = Path(__file__).with_name("brake")
        while trainer.current_epoch == 2 and brake.exists():
            brake.with_name("waits").touch()
            time.sleep(0.05)
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_training_and_the_next_start_goes_on(overrides, tmp_path):
    (tmp_path / "slow.py").write_text(BRAKE)
    (tmp_path / "brake").touch()
    overrides = [*overrides, "trainer.max_epochs=40", "+callbacks.brake={_target_: slow.Brake}"]
    command = [sys.executable, "-m", "lhtx.suite", "vimh_cnn", *overrides, "--as", "long"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    root = tmp_path / "logs" / "suite" / "long"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        deadline = time.monotonic() + 600
        while not (tmp_path / "waits").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    (tmp_path / "brake").unlink()
    assert process.returncode == 130, output
    member = json.loads((root / "vimh_cnn" / "member.json").read_text())
    assert member["status"] == "interrupted"
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert again.returncode == 0, again.stderr
    assert "goes on from" in again.stdout
    assert json.loads((root / "vimh_cnn" / "member.json").read_text())["epochs"] == 40


def test_a_dataset_that_cannot_be_had_is_told_once_and_starts_nothing(tmp_path, trained, capsys):
    here = [f"paths.log_dir={tmp_path / 'logs'}", f"paths.data_dir={tmp_path}", "data.download=false"]
    assert main(["mnist_mlp", "mnist_cnn", *here, "--as", "none"]) == 1
    assert trained.calls == []
    printed = capsys.readouterr()
    assert printed.err.count("no MNIST in") == 1
    table = (tmp_path / "logs" / "suite" / "none" / "suite.md").read_text()
    assert f"mnist_mlp, mnist_cnn failed: no MNIST in {tmp_path / 'mnist'}" in table
    assert table.count("no MNIST in") == 1
    members = json.loads((tmp_path / "logs" / "suite" / "none" / "mnist_mlp" / "member.json").read_text())
    assert (members["network"], members["parameters"]) == ("SimpleMLP", 67466)
