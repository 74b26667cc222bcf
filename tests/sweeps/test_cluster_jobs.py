"""Sweeps as jobs of a cluster, as far as no cluster is needed: what is shipped, what comes back, and what is refused."""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeps import manifest, places, runner
from sweeps.cluster import job as jobs_main
from sweeps.cluster import package, parcel, submit
from sweeps.cluster.connection import ClusterError, connect, told
from sweeps.cluster.fetch import fetch
from sweeps.cluster.job import BEGUN
from sweeps.cluster.jobs import Cluster, Job, exit_status
from sweeps.errors import LedgerError, StorageError
from sweeps.ledger import Ledger, own_trials, read_history
from sweeps.overview import overview
from sweeps.space import dump


def text_of(ledger: Ledger, checkpoints: str = "best") -> str:
    stream = io.StringIO()
    parcel.write(ledger, checkpoints, stream)
    return stream.getvalue()


class OneSweep:
    """A cluster whose pack jobs print `ledger`."""

    address = "http://cluster:8265"

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.status, self.text, self.sweep, self.meanwhile = ledger, "SUCCEEDED", None, "SUCCEEDED", lambda: None

    def latest(self, sweep):
        return job(self.sweep)

    def submit(self, command, kind, sweep, runs, space=None):
        self.command = [*command, runs]
        return job("RUNNING")

    def wait(self, submission):
        self.meanwhile()
        return job(self.status)

    def logs(self, submission):
        return self.text or f"Runtime env is setting up.\n{text_of(self.ledger, self.command[3])}"


def job(status: str, code: int | None = None, message: str = "") -> Job:
    return Job("sweep-test-1", status, message, code, "/there/runs", "ada@laptop", datetime(2026, 1, 2))


@pytest.fixture
def copied(ended, checkpoint, tmp_path):
    """A sweep on a cluster whose first two trials have checkpoints, and where its copy belongs."""
    checkpoint(ended.trial(1), 2)
    (ended.directory / ".lock").touch()
    (ended.report_directory).mkdir()
    return OneSweep(ended), Ledger(ended.name, tmp_path / "local")


def test_what_is_fetched_is_the_sweep(copied):
    cluster, local = copied
    said = []
    fetch(cluster, local, None, "best", said.append)
    assert cluster.command == ["pack", "test", "--checkpoints", "best", "/there/runs"]
    assert said == [f"test is here, in {local.directory}, with the best trial's checkpoints"]
    assert local.manifest() == cluster.ledger.manifest()
    here, there = (own_trials(ledger.study().get_trials()) for ledger in (local, cluster.ledger))
    assert [(each.number, each.values, each.user_attrs) for each in here] == [
        (each.number, each.values, each.user_attrs) for each in there
    ]
    assert overview(local).best == overview(cluster.ledger).best == (0, 0.5)
    for number in range(3):
        assert read_history(local.trial(number).history) == read_history(cluster.ledger.trial(number).history)
    assert local.trial(0).last_checkpoint.exists()
    assert not local.trial(1).last_checkpoint.exists()
    assert not local.report_directory.exists()
    assert not (local.directory / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("checkpoints", "expected"), [("none", [False, False]), ("all", [True, True])])
def test_checkpoints_come_as_they_are_asked_for(copied, checkpoints, expected):
    cluster, local = copied
    fetch(cluster, local, "/elsewhere", checkpoints, lambda text: None)
    assert cluster.command[-1] == "/elsewhere"
    assert [local.trial(number).last_checkpoint.exists() for number in (0, 1)] == expected
    with pytest.raises(ClusterError, match="--checkpoints 'bets': Did you mean best"):
        fetch(cluster, local, None, "bets", lambda text: None)


def test_a_copy_is_replaced_and_keeps_what_was_made_of_it(copied, open_study, run_trial):
    cluster, local = copied
    fetch(cluster, local, None, "none", lambda text: None)
    (local.report_directory).mkdir()
    (local.report_directory / "index.html").write_text("a report")
    fetch(cluster, local, None, "best", lambda text: None)
    assert (local.report_directory / "index.html").read_text() == "a report"
    assert local.trial(0).last_checkpoint.exists()
    assert [path.name for path in local.root.iterdir()] == ["test"]


def test_a_sweep_that_is_no_copy_is_never_overwritten(copied, tmp_path):
    cluster, local = copied
    local.directory.mkdir(parents=True)
    (local.directory / "manifest.json").write_text("{}")
    with pytest.raises(LedgerError, match=r"local/test/ exists and was not fetched from a cluster: it is never overwritten"):
        fetch(cluster, local, None, "best", lambda text: None)
    other = Ledger("test", tmp_path / "other")
    fetch(cluster, other, None, "best", lambda text: None)
    other.write_manifest({**other.manifest(), "sessions": [{"started": "2026-01-01T00:00:00+00:00"}]})
    with pytest.raises(LedgerError, match=r"was fetched from http://cluster:8265, and run here since"):
        fetch(cluster, other, None, "best", lambda text: None)
    third = Ledger("test", tmp_path / "third")
    fetch(cluster, third, None, "best", lambda text: None)
    cluster.ledger.write_manifest({**cluster.ledger.manifest(), "seed": 99})
    with pytest.raises(LedgerError, match=r"is a copy of another sweep of that name, begun at an unknown time with seed 3"):
        fetch(cluster, third, None, "best", lambda text: None)
    assert third.manifest()["seed"] == 3


def test_a_copy_that_somebody_has_begun_to_run_meanwhile_stays(copied):
    cluster, local = copied
    fetch(cluster, local, None, "none", lambda text: None)
    holding = local.lock()
    cluster.meanwhile = holding.__enter__
    with pytest.raises(LedgerError, match=r"is being run by process \d+"):
        fetch(cluster, local, None, "best", lambda text: None)
    holding.__exit__(None, None, None)
    assert not local.trial(0).last_checkpoint.exists()


def test_a_copy_that_cannot_be_replaced_is_put_back(copied, monkeypatch):
    cluster, local = copied
    fetch(cluster, local, None, "none", lambda text: None)
    rename = Path.rename

    def fail(path, target):
        if target == local.directory and path.name != "before":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        fetch(cluster, local, None, "best", lambda text: None)
    assert [trial.value for trial in Ledger("test", local.root).study().get_trials()] == [0.5, 0.3, 0.2]


def test_nobody_goes_on_with_a_copy_of_what_ran_there(copied, console, monkeypatch):
    cluster, local = copied
    cluster.sweep, said = "RUNNING", []
    fetch(cluster, local, None, "best", said.append)
    assert "as it was just now: job sweep-test-1 (running, submitted by ada@laptop" in said[0]
    monkeypatch.setattr(runner, "_drive", lambda *arguments: 0)
    with pytest.raises(LedgerError, match=r"was running on http://cluster:8265, as job sweep-test-1, .*make stop NAME=test A"):
        runner.resume("test", local.root, console)
    cluster.sweep = "STOPPED"
    fetch(cluster, local, None, "best", said.append)
    assert runner.resume("test", local.root, console) == 0


def test_what_the_environment_here_says_reaches_the_job_and_passwords_do_not(make_space, monkeypatch):
    space, url = make_space(), "postgresql://ada@db.example/sweeps"
    monkeypatch.setattr(places, "_withdrawn", {})
    for name in ("SWEEPS_STORAGE", "SWEEPS_RESULTS", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    assert submit._said_here(space) == []
    monkeypatch.setenv("SWEEPS_RESULTS", "s3://bucket/sweeps")
    monkeypatch.setenv("SWEEPS_STORAGE", url)
    assert submit._said_here(space) == ["--storage", url, "--results", "s3://bucket/sweeps"]
    assert submit._said_here(make_space("storage: journal\nresults: file:///there\n")) == []
    seen = []
    monkeypatch.setattr(jobs_main, "load_space", lambda name: space)
    monkeypatch.setattr(jobs_main, "write_atomically", lambda path, content: None)
    monkeypatch.setattr(runner, "run", lambda *arguments: seen.append(places.chosen(None)) or 0)
    for name, value in (("SWEEPS_STORAGE", url.replace("ada", "ada:hidden")), ("PGPASSWORD", "hidden")):
        monkeypatch.setenv(name, value)
        with pytest.raises(StorageError, match=rf"^{url}: the password .* is not sent with a job.*~/\.pgpass") as refused:
            submit._said_here(space)
        assert "hidden" not in str(refused.value)
    # There, where the head node's environment has one:
    monkeypatch.setattr(sys, "argv", ["job", "run", "test", "--runs", str(space.document.file.parent / "r"), "--storage", url])
    with pytest.raises(SystemExit) as left:
        jobs_main.main()
    assert (left.value.code, seen) == (0, [places.Place.parse(url)])
    assert places.password(seen[0]) == "hidden"
    assert "hidden" not in str(os.environ)


@pytest.mark.slow
def test_a_directory_that_both_see_is_not_fetched(copied):
    cluster, _ = copied
    said = []
    fetch(cluster, cluster.ledger, str(cluster.ledger.root), "best", said.append)
    assert said == [f"{cluster.ledger.directory} is the sweep's own directory: nothing is to be fetched"]


def test_what_does_not_arrive_whole_changes_nothing(copied):
    cluster, local = copied
    whole = text_of(cluster.ledger)
    for text, what in (
        (whole[: len(whole) // 2], "did not come to its end; the last that it printed: "),
        (whole.replace("SWEEP-----\n", "SWEEP-----\nAAAA", 1), "was damaged on its way"),
        ("", "the last that it printed: nothing"),
    ):
        cluster.text = text or " "
        with pytest.raises(ClusterError, match=what):
            fetch(cluster, local, None, "best", lambda text: None)
        assert not local.directory.exists()
    cluster.status, cluster.text = "FAILED", "error: There is no sweep 'test' in /there/runs/.\n"
    with pytest.raises(ClusterError, match=r"test cannot be fetched from /there/runs on the cluster: There is no sweep 'test'"):
        fetch(cluster, local, None, "best", lambda text: None)
    assert list(local.root.glob(".fetching-*")) == []


@pytest.mark.slow
def test_a_study_in_a_database_comes_as_a_file(copied, monkeypatch, tmp_path):
    """With an SQLite file in the place of the server."""
    import optuna

    from sweeps.places import Place

    cluster, local = copied
    optuna.copy_study(
        from_study_name="test",
        from_storage=cluster.ledger.storage,
        to_storage=f"sqlite:///{tmp_path / 'server.db'}",
        to_study_name="shared",
    )
    remote = Ledger("test", cluster.ledger.root)
    remote.write_manifest({**remote.manifest(), "storage": "postgresql://ada@host/sweeps", "study": "shared"})
    remote.__dict__["storage"] = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'server.db'}")
    assert remote.place == Place("postgresql", "postgresql://ada@host/sweeps")
    cluster.ledger = remote
    monkeypatch.setattr(parcel, "_best", lambda ledger: ledger.trial(0).directory)
    fetch(cluster, local, None, "best", lambda text: None)
    assert {"storage", "study"}.isdisjoint(local.manifest())
    assert [trial.value for trial in local.study().get_trials()] == [0.5, 0.3, 0.2]


def test_the_package_holds_the_code_the_space_and_where_it_came_from(make_space):
    space = make_space()
    with package.packaged(space) as directory:
        assert (directory / "sweeps" / "cluster" / "job.py").exists()
        assert (directory / "lhtx" / "data" / "vimh.py").exists()
        assert (directory / "lhtx" / "configs" / "train.yaml").exists()
        assert not {".git", ".venv", "runs", "data", "logs"} & {path.name for path in directory.iterdir()}
        assert (directory / ".shipped" / "space.yaml").read_text() == dump(space)
        assert json.loads((directory / ".shipped" / "code.json").read_text()) == manifest.code()
    assert not directory.exists()


def test_a_package_that_is_too_large_names_its_largest_files(make_space, monkeypatch, tmp_path):
    (tmp_path / "model.bin").write_bytes(bytes(3 * 2**20))
    (tmp_path / "code.py").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").write_bytes(bytes(10))
    monkeypatch.setattr(manifest, "PROJECT", tmp_path)
    assert [path.name for path in package.sources(tmp_path)] == ["code.py", "model.bin", "test.yaml"][:2]
    monkeypatch.setattr(package, "LIMIT_MIB", 2)
    with (
        pytest.raises(ClusterError, match=r"has 3 MiB, and Ray takes 2\. The largest files: model\.bin \(3 MiB\), code\.py"),
        package.packaged(),
    ):
        pass


def test_code_that_was_shipped_knows_its_commit(monkeypatch, tmp_path):
    (tmp_path / "code.json").write_text(json.dumps({"commit": "abc", "diff": "", "untracked": [], "lock_sha256": None}))
    monkeypatch.setattr(manifest, "SHIPPED_CODE", tmp_path / "code.json")
    assert manifest.code()["commit"] == "abc"


@pytest.mark.parametrize(
    ("ended_job", "output", "status"),
    [
        (job("SUCCEEDED", 0), BEGUN, 0),
        (job("STOPPED"), BEGUN, 130),
        (job("FAILED", 1), f"{BEGUN}\nfailed", 1),
        (job("FAILED", 130), f"{BEGUN}\ninterrupted", 130),
        (job("FAILED", -9), f"{BEGUN}\nkilled", 137),
    ],
)
def test_the_exit_status_is_the_job_s(ended_job, output, status):
    assert exit_status(ended_job, output) == status


def test_a_job_that_cannot_start_says_why():
    with pytest.raises(
        ClusterError, match=r"job sweep-test-1 could not start on the cluster: /bin/sh: python: not found\. Its"
    ):
        exit_status(job("FAILED", 127), "Running entrypoint\n/bin/sh: python: not found\n")
    with pytest.raises(ClusterError, match=r"could not start on the cluster: the runtime env failed\."):
        exit_status(job("FAILED", None, "the runtime env failed"), "")


def test_a_job_that_was_lost_with_its_node_is_told():
    with pytest.raises(ClusterError, match=r"job sweep-test-1 was lost: its node died\. What it has done is kept .* submit"):
        exit_status(job("FAILED", None, "its node died"), BEGUN)


class Client:
    """Ray's client of a job that prints `TEXT`; the stream breaks off twice, and the head node has no agent at first."""

    TEXT = "begun\nepoch 1\nepoch 2\nended\n"

    def __init__(self) -> None:
        self.streams, self.requests, self.refusals = 0, 0, 2

    async def tail_job_logs(self, submission):
        self.streams += 1
        for part in (self.TEXT[: 5 * self.streams], self.TEXT[5 * self.streams :]):
            yield part
            if self.streams < 3:
                raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, submission):
        details = {"status": "SUCCEEDED" if self.streams == 3 else "RUNNING", "message": "", "start_time": 0}
        return SimpleNamespace(**details, submission_id=submission, driver_exit_code=None, metadata={"by": "ada@laptop"})

    def get_job_logs(self, submission):
        return self.TEXT

    def submit_job(self, **request):
        self.requests += 1
        if self.requests <= self.refusals:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job, please try again later.")
        return request["submission_id"]


@pytest.fixture
def cluster():
    made = Cluster.__new__(Cluster)
    made.address, made._client = "http://cluster:8265", Client()
    return made


def test_a_stream_that_breaks_off_is_taken_up_where_it_was(cluster):
    shown: list[str] = []
    assert cluster.follow("job-1", shown.append, pause=lambda seconds: None).status == "SUCCEEDED"
    assert "".join(shown) == Client.TEXT
    assert cluster._client.streams == 3


def test_a_head_node_that_is_still_starting_is_asked_again(cluster):
    request = {"submission_id": "job-1"}
    assert cluster._submit(request, pause=lambda seconds: None) == "job-1"
    assert cluster._client.requests == 3
    cluster._client.refusals = 99
    with pytest.raises(ClusterError, match="the head node takes no jobs: its agent is not up"):
        cluster._submit(request, pause=lambda seconds: None)
    assert cluster._client.requests == 3 + 4


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "auto", "http://", "http://host:99999999"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ClusterError, match=r"expected the address of a Ray dashboard, such as http://127\.0\.0\.1:8265"):
        connect(address)


def test_an_address_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(ClusterError, match=r"^--address: http://head with a user or password before it\. Put") as refused:
        connect("http://ada:hidden@head:8265")
    assert "hidden" not in str(refused.value)


def test_a_port_that_nobody_listens_on_says_how_to_get_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(
        ClusterError, match=rf"127\.0\.0\.1:{port}: nobody answers .* a tunnel brings it here, as `ssh -L {port}"
    ):
        connect(f"http://127.0.0.1:{port}")


@pytest.fixture
def server():
    """A function: status and body → the address of a server that gives nothing else."""
    servers = []

    def start(status: int, body: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        servers.append(found)
        return f"http://127.0.0.1:{found.server_port}"

    yield start
    for found in servers:
        found.shutdown()
        found.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<html>", "answers, but is no Ray dashboard"),
        (200, "{}", "answers, but is no Ray dashboard"),
        (404, "", "answers, but is no Ray dashboard"),
        (500, "", "answers, but is no Ray dashboard"),
        (401, "Unauthorized", r"wants a token\. Put the cluster's token into ~/\.ray/auth_token"),
        (403, "Forbidden", "does not accept this token"),
        (
            200,
            '{"ray_version": "2.9.1"}',
            r"runs Ray 2\.9\.1, and this project Ray .*: a cluster needs what requirements\.lock",
        ),
    ],
)
def test_what_answers_and_is_of_no_use_is_told_apart(server, status, body, said):
    with pytest.raises(ClusterError, match=said):
        connect(server(status, body))


def test_a_number_in_a_message_is_no_status():
    answer = "Request failed with status code 500: of sweep-x-404a."
    with pytest.raises(ClusterError, match=f"^http://head: {answer}$"), told("http://head"):
        raise RuntimeError(answer)


def test_git_says_what_is_shipped(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("*.ckpt\n")
    for name in ("a.py", "b.ckpt"):
        (tmp_path / name).touch()
    assert [path.name for path in package.sources(tmp_path)] == [".gitignore", "a.py"]
