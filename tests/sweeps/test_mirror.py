"""A sweep is copied elsewhere while it runs, and what is there at any instant can be pulled and brought to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from fsspec.implementations.memory import MemoryFileSystem

from lhtx.files import write_atomically
from sweeps.creation import create_ledger
from sweeps.errors import LedgerError, MirrorError, SpaceError
from sweeps.ledger import Ledger, read_history
from sweeps.mirror import Mirror, mirrored_to, open_mirror
from sweeps.mirror_target import Target, open_target
from sweeps.overview import overview
from sweeps.pull import pull, push
from sweeps.recorded import recorded
from sweeps.results_place import VARIABLE, ResultsPlace, chosen

EPOCHS = 3
FIFO = "search: {trials: 2, seed: 3, sampler: random}\nstopping: {scheduler: fifo}\n"


@pytest.fixture
def memory():
    """The place under which the memory's file system is empty."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return ResultsPlace.parse("memory://results")


class Killed(BaseException):
    """What stands for the loss of the machine."""


def course(ledger, study, report_epoch):
    """A driver and its trials, step by step: each report, each checkpoint and each end is a step."""
    while proposal := study.propose():
        number = proposal["number"]
        files = ledger.trial(number)
        files.checkpoints.mkdir(exist_ok=True)
        study.begin(number)
        done = int(files.last_checkpoint.read_text()) if files.last_checkpoint.exists() else 0
        if done:
            report_epoch(study, number, done, number + done / 10, repeated=True)
            yield
        for epoch in range(done + 1, EPOCHS + 1):
            report_epoch(study, number, epoch, number + epoch / 10)
            yield
            write_atomically(files.checkpoints / "best.ckpt", str(epoch))
            write_atomically(files.last_checkpoint, str(epoch))
            yield
        study.finish(number, {"metrics": {"test/avg_acc": 0.5}, "seconds": float(EPOCHS)})
        yield


def outcome(ledger):
    rows = [[{**row, "seconds": 0} for row in read_history(ledger.trial(number).history)] for number in range(2)]
    trials = [(trial.state.name, trial.value, recorded(trial)) for trial in ledger.study().get_trials()]
    return trials, rows


def copied(ledger, open_study, report_epoch, mirror, limit=None):
    """Run the sweep while it is copied; every write over there lets the trials go one step further. The number of writes; the
    machine is lost before write `limit`."""
    study = open_study(ledger)
    study.on_end.append(lambda number, verdict: mirror.wake(number))
    steps, write, count = course(ledger, study, report_epoch), mirror.target.write, 0

    def interleaved(name, source):
        nonlocal count
        count += 1
        if count == limit:
            raise Killed
        next(steps, None)
        write(name, source)

    mirror.target.write = interleaved
    try:
        for number, _ in enumerate(steps):
            mirror.copy(running=number % 2 == 0)
        mirror.copy()
    except Killed:
        pass
    return count


@pytest.mark.parametrize("part", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_a_machine_lost_before_any_write_leaves_a_copy_from_which_the_rest_follows(
    memory, make_ledger, make_space, tmp_path, open_study, report_epoch, console, part
):
    def fresh(name):
        MemoryFileSystem.store.clear()
        ledger = Ledger("test", tmp_path / name)
        create_ledger(ledger, make_space(FIFO))
        return ledger, Mirror(ledger, Target.of(memory, "test"), 60.0, pause=lambda seconds: None)

    ledger, mirror = fresh("reference")
    writes = copied(ledger, open_study, report_epoch, mirror)
    expected = outcome(ledger)
    assert [state for state, _, _ in expected[0]] == ["COMPLETE", "COMPLETE"]
    pulled = 0
    for limit in range(1, writes + 1) if part == "all" else [writes // 2]:
        ledger, mirror = fresh(f"lost{limit}")
        copied(ledger, open_study, report_epoch, mirror, limit)
        other = Ledger("test", tmp_path / f"other{limit}")
        try:
            pull("test", memory.url, other.root, console)
        except MirrorError:
            assert "manifest.json" not in mirror.target.listed()  # nothing that could be missed was there yet
            continue
        for _ in course(other, open_study(other), report_epoch):
            pass
        assert outcome(other) == expected, limit
        pulled += 1
    assert pulled >= (writes // 2 if part == "all" else 1)


def test_what_has_not_changed_is_not_sent_again_and_what_went_over_there_is(memory, ended):
    mirror = open_mirror(memory, ended, 5.0, print)
    mirror.copy()
    there = mirror.target.listed()
    local = {path.relative_to(ended.directory).as_posix() for path in ended.directory.rglob("*") if path.is_file()}
    assert set(there) == {name for name in local if not any(part.startswith(".") for part in name.split("/"))}
    sent = []
    again = open_mirror(memory, ended, 5.0, print)
    write = again.target.write
    again.target.write = lambda name, source: (sent.append(name), write(name, source))
    again.copy()
    assert sent == ["study.db"]
    again.target.files.delete_file(again.target.at("space.yaml"))
    sent.clear()
    third = open_mirror(memory, ended, 5.0, print)
    third.copy()
    assert "space.yaml" in third.target.listed()


def test_the_study_that_is_sent_is_whole_and_readable(memory, make_ledger, open_study, run_trial, console, tmp_path):
    ledger = make_ledger(FIFO + "storage: journal\n")
    run_trial(open_study(ledger), [0.5, 0.25])
    journal = ledger.directory / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 1, "half')  # a driver in the middle of a line
    push("test", memory.url, ledger.root, console)
    pull("test", memory.url, tmp_path / "other", console)
    there = Ledger("test", tmp_path / "other")
    assert (there.directory / "study.journal").read_bytes() + b'{"op_code": 1, "half' == journal.read_bytes()
    assert [trial.value for trial in there.study().get_trials()] == [0.5]


def test_a_checkpoint_that_the_quota_removes_goes_there_too_and_nothing_else_does(memory, ended):
    mirror = open_mirror(memory, ended, 5.0, print)
    mirror.copy()
    (ended.trial(0).checkpoints / "best.ckpt").unlink()
    ended.trial(0).history.unlink()
    mirror.copy()
    there = mirror.target.listed()
    assert "trials/0000/checkpoints/best.ckpt" not in there
    assert {"trials/0000/checkpoints/last.ckpt", "trials/0000/history.csv"} <= set(there)


def test_reports_never_wait_and_a_failure_is_told_once_until_it_is_mended(ended, tmp_path):
    said, blocked = [], threading.Event()
    target = Target.of(ResultsPlace.parse(f"file://{tmp_path}/mirror"), "test")
    mirror = Mirror(ended, target, 60.0, said.append, pause=lambda seconds: None)
    write = target.write

    def refuse(name, source):
        blocked.wait(10)
        raise OSError("the network is down")

    target.write = refuse
    mirror.start([0, 1, 2])
    mirror.wake(2)  # returns although nothing can be sent
    blocked.set()
    problem = mirror.close()
    assert "files of test are not, or not as they are here, at file://" in problem
    assert problem.endswith("/mirror/test: the network is down")
    mirror.attempt(running=True)
    assert len(said) == 1
    assert said[0].endswith("fails, and is tried again: the network is down")
    target.write = write
    mirror.attempt(running=True)
    assert said[1].endswith("is complete again")
    assert mirror.close() is None


def test_what_runs_is_sent_at_most_so_often_and_what_has_ended_at_once(memory, make_ledger, open_study, report_epoch):
    ledger = make_ledger(FIFO)
    mirror = open_mirror(memory, ledger, 5.0, print)
    study = open_study(ledger)
    study.on_end.append(lambda number, verdict: mirror.wake(number))
    number = study.propose()["number"]
    study.begin(number)
    report_epoch(study, number, 1, 0.5)
    mirror.copy(running=False)
    assert not any(name.startswith("trials/") for name in mirror.target.listed())
    mirror.copy(running=True)
    assert "trials/0000/history.csv" in mirror.target.listed()
    study.finish(number, {"metrics": {}, "seconds": 1.0})
    mirror.copy(running=False)
    assert b"finished: ended by itself" in mirror.target.read("trials/0000/history.csv")


def test_the_end_of_a_trial_costs_no_look_at_all_that_ended_before(memory, make_ledger, open_study, run_trial):
    ledger = make_ledger(FIFO)
    mirror = open_mirror(memory, ledger, 5.0, print)
    study = open_study(ledger)
    study.on_end.append(lambda number, verdict: mirror.wake(number))
    run_trial(study, [0.5])
    mirror.copy(running=False)
    ledger.trial(0).checkpoints.mkdir()
    ledger.trial(0).last_checkpoint.write_text("after its end")
    run_trial(study, [0.6])
    mirror.copy(running=False)
    assert mirror.target.read("trials/0000/checkpoints/last.ckpt") == b"after its end"
    mirror.copy(running=False)
    assert ledger.trials_directory not in {path.parent for path in mirror._chosen(False)}
    assert {ledger.trial(number).directory for number in (0, 1)} < set(mirror._chosen(True))
    assert {"trials/0000/history.csv", "trials/0001/history.csv"} <= set(mirror.target.listed())


def test_a_place_with_another_sweep_or_a_later_state_of_this_one_is_refused(memory, make_ledger, tmp_path, make_space, console):
    ledger = make_ledger(FIFO)
    push("test", memory.url, ledger.root, console)
    other = Ledger("test", tmp_path / "elsewhere")
    create_ledger(other, make_space(FIFO))
    with pytest.raises(MirrorError, match="memory://results/test holds another sweep of this name"):
        open_target(memory, other)
    there = {**ledger.manifest(), "sessions": [{"started": "2026-01-01T00:00:00+00:00"}]}
    target = Target.of(memory, "test")
    with target.files.open_output_stream(target.at("manifest.json")) as stream:
        stream.write(json.dumps(there).encode())
    with pytest.raises(MirrorError, match="has gone on elsewhere since"):
        open_target(memory, ledger)
    with pytest.raises(MirrorError, match="is where the sweep itself lives"):
        open_target(ResultsPlace.parse(f"file://{ledger.root}"), ledger)


def test_pulling_is_refused_where_something_is_and_names_what_there_is(memory, ended, tmp_path, console):
    push("test", memory.url, ended.root, console)
    with pytest.raises(LedgerError, match="exists, and is never overwritten"):
        pull("test", memory.url, ended.root, console)
    with pytest.raises(MirrorError, match=r"There is no sweep 'tset' at memory://results. There are: test\."):
        pull("tset", memory.url, tmp_path / "other", console)
    with pytest.raises(MirrorError, match=r"There is none\."):
        pull("test", "memory://empty", tmp_path / "other", console)
    with pytest.raises(MirrorError, match=r"the directory above is expected, FROM=memory://results\.$"):
        pull("test", f"{memory.url}/test", tmp_path / "other", console)
    assert not (tmp_path / "other" / "test").exists()
    pull("test", memory.url, tmp_path / "other", console)
    assert overview(Ledger("test", tmp_path / "other")).ended == {"finished": 3}
    assert list((tmp_path / "other").iterdir()) == [tmp_path / "other" / "test"]


def test_pulled_checkpoints_know_where_they_are(memory, ended, tmp_path, console):
    files = ended.trial(0)
    config = {"paths": {"output_dir": str(files.directory.resolve())}}
    files.config.write_text(yaml.safe_dump(config))
    push("test", memory.url, ended.root, console)
    pull("test", memory.url, tmp_path / "other", console)
    there = Ledger("test", tmp_path / "other").trial(0)
    callback = next(iter(torch.load(there.last_checkpoint, weights_only=True)["callbacks"].values()))
    assert callback["dirpath"] == str(there.checkpoints.resolve())
    assert callback["best_model_path"] == f"{there.checkpoints.resolve()}/best.ckpt"
    assert yaml.safe_load(there.config.read_text())["paths"]["output_dir"] == str(there.directory.resolve())


def test_pushing_asks_for_a_place_and_remembers_it(memory, ended, console, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(MirrorError, match="Nothing says where the sweep 'test' is to be copied"):
        push("test", None, ended.root, console)
    push("test", memory.url, ended.root, console)
    assert mirrored_to(ended) == memory
    push("test", None, ended.root, console)
    with ended.lock(), pytest.raises(LedgerError, match="is being run by"):
        push("test", None, ended.root, console)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("bucket/x", "is no URL"),
        ("s3://", "names no directory"),
        ("s3://key:hunter2@bucket/x", "holds credentials"),
        ("s3://hunter2@bucket/x", "holds credentials"),
        ("s3://bucket/x?secret_key=hunter2", "options that are not taken: 'secret_key'"),
        ("s3://bucket/x?endpoint_override=me:hunter2@host", "options that are not taken: 'endpoint_override'"),
        ("file://runs/x", "names the machine 'runs'"),
        ("s3://bucket/x#hunter2", "a part after '#'"),
    ],
)
def test_places_that_are_none_or_hold_secrets_are_refused_without_repeating_them(url, message, make_space, monkeypatch):
    with pytest.raises(SpaceError) as refused:
        make_space(f"results: '{url}'\n")
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(MirrorError, match=VARIABLE) as refused:
        chosen(None)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo://bucket/x", "Protocol not known: foo"),
        ("file:///proc/none", "cannot be written"),
        ("sftp://host/x", "cannot be opened"),
        ("http://127.0.0.1:9/x", "cannot be (read|written)"),
        ("data://host/x", "cannot be read: not enough values"),
    ],
)
def test_places_that_cannot_be_written_are_refused(url, message, tmp_path):
    with pytest.raises(MirrorError, match=message) as refused:
        open_target(ResultsPlace.parse(url), Ledger("test", tmp_path))
    assert url in str(refused.value)
    assert str(refused.value).endswith("Nothing was started: mend that, name another place with `results`, or leave it out.")


def test_the_environment_names_a_place_where_the_space_names_none(monkeypatch, make_space):
    monkeypatch.setenv(VARIABLE, "s3://bucket/sweeps?region=eu-west-1")
    assert chosen(None).of("a").shown == "s3://bucket/sweeps/a"
    assert chosen("file:///x").url == "file:///x"
    space = make_space("results: {url: 's3://b/c', every_minutes: 0.5}\n")
    assert (space.outputs.results.url, space.outputs.results.every_minutes) == ("s3://b/c", 0.5)


@pytest.mark.slow
def test_an_s3_server_takes_a_sweep_and_gives_it_back(ended, tmp_path, console, monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_hunter2_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    script = Path(__file__).with_name("s3_server.py")
    server = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        query = f"?endpoint_override=127.0.0.1:{server.stdout.readline().strip()}&scheme=http&region=us-east-1"
        (ended.trial(1).directory / "large.bin").write_bytes(os.urandom(20 * 2**20))  # sent in parts
        place = ResultsPlace.parse(f"s3://sweeps/mine{query}")
        push("test", place.url, ended.root, console)
        pull("test", place.url, tmp_path / "other", console)
        other = Ledger("test", tmp_path / "other")
        large = other.trial(1).directory / "large.bin"
        assert large.read_bytes() == (ended.trial(1).directory / "large.bin").read_bytes()
        assert overview(other).ended == {"finished": 3}
        for bucket, reason in (("nobucket", "NoSuchBucket"), ("readonly", "AccessDenied")):
            with pytest.raises(MirrorError, match=f"s3://{bucket}/test cannot be written.*{reason}"):
                open_target(ResultsPlace.parse(f"s3://{bucket}{query}"), ended)
    finally:
        server.communicate()
