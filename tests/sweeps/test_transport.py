"""A trial's files between a node and the sweep: what arrives, in which order, and what a node that dies leaves behind."""

from __future__ import annotations

import json

import pytest
from filelock import FileLock, Timeout

from sweeps import transport
from sweeps.node import Node, Offer
from sweeps.node_data import Dataset, digest, pack, unpack
from sweeps.relocation import local, relocated
from sweeps.transport import CHUNK_BYTES, PATIENCE_SECONDS, FileHost, SupersededError, TrialCopy, files


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host(tmp_path, clock) -> FileHost:
    (tmp_path / "sweep").mkdir()
    return FileHost(tmp_path / "sweep", clock)


@pytest.fixture
def copy(host, tmp_path):
    """A function: an attempt's name → the copy of trial 3 on its node."""

    def make(attempt: str) -> TrialCopy:
        directory = tmp_path / attempt
        return TrialCopy(host, 3, attempt, directory, [(str(tmp_path / "sweep" / "0003"), str(directory))])

    return make


def never(seconds: float) -> None:
    raise AssertionError("it waits")


def test_an_attempt_begins_with_what_the_sweep_has_and_sends_what_changes(copy, tmp_path):
    there = tmp_path / "sweep" / "0003"
    (there / "checkpoints").mkdir(parents=True)
    (there / "checkpoints" / "last.ckpt").write_bytes(b"epoch 1")
    for name in ("history.csv", "overrides.txt", "old.txt"):
        (there / name).write_text("the driver's")
    first = copy("a")
    first.fetch(never)
    assert set(files(first.directory)) == {"checkpoints/last.ckpt", "old.txt"}
    (first.directory / "checkpoints" / "last.ckpt").write_bytes(b"epoch 2")
    (first.directory / "config.yaml").write_text(f"output_dir: {first.directory}\n")
    (first.directory / "history.csv").write_text("the node's")
    (first.directory / ".running").touch()
    (first.directory / "old.txt").unlink()
    first.send()
    assert (there / "checkpoints" / "last.ckpt").read_bytes() == b"epoch 2"
    assert (there / "config.yaml").read_text() == f"output_dir: {there}\n"
    assert (there / "history.csv").read_text() == (there / "overrides.txt").read_text() == "the driver's"
    assert not (there / "old.txt").exists()
    assert not list(there.rglob("*.part"))


def test_only_what_has_changed_is_sent_and_the_latest_last(copy, host, monkeypatch):
    import os

    sent = []
    monkeypatch.setattr(FileHost, "write", lambda self, number, attempt, name, *rest: sent.append(name))
    first = copy("a")
    first.fetch(never)
    for index, name in enumerate(("z.bin", "a.bin", "m.bin")):
        (first.directory / name).write_bytes(b"x")
        os.utime(first.directory / name, ns=(0, index))
    first.send()
    first.send()
    assert sent == ["z.bin", "a.bin", "m.bin"]


def test_a_file_of_many_chunks_arrives_whole_and_is_not_seen_before(copy, host, monkeypatch, tmp_path):
    monkeypatch.setattr(transport, "CHUNK_BYTES", 10)
    content = bytes(range(256))
    first = copy("a")
    first.fetch(never)
    (first.directory / "last.ckpt").write_bytes(content)
    seen = []
    write = FileHost.write

    def spy(self, *arguments):
        write(self, *arguments)
        seen.append((tmp_path / "sweep" / "0003" / "last.ckpt").exists())

    monkeypatch.setattr(FileHost, "write", spy)
    first.end()
    assert (tmp_path / "sweep" / "0003" / "last.ckpt").read_bytes() == content
    assert seen == [False] * 25 + [True]
    assert not first.directory.exists()
    second = copy("b")
    second.fetch(never)
    assert (second.directory / "last.ckpt").read_bytes() == content
    assert CHUNK_BYTES > 10**6


def test_nothing_starts_from_a_trial_before_its_last_checkpoint_has_arrived(copy, host, clock, tmp_path):
    first, second = copy("a"), copy("b")
    first.fetch(never)
    with pytest.raises(Timeout):  # as the driver asks, before it copies a checkpoint
        FileLock(tmp_path / "sweep" / "0003" / ".running").acquire(timeout=0)
    (first.directory / "last.ckpt").write_bytes(b"late")
    waits = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            first.end()

    second.fetch(pause)
    assert len(waits) == 3
    assert (second.directory / "last.ckpt").read_bytes() == b"late"
    second.end()
    FileLock(tmp_path / "sweep" / "0003" / ".running").acquire(timeout=0).lock.release()


def test_an_attempt_that_says_nothing_is_given_up_and_may_write_no_more(copy, clock):
    first, second = copy("a"), copy("b")
    first.fetch(never)
    clock.now = 1000.0  # an epoch may take as long as it likes, while nobody else wants the trial

    def pause(seconds: float) -> None:
        clock.now += 1.0

    second.fetch(pause)
    assert clock.now == 1000.0 + PATIENCE_SECONDS
    (first.directory / "last.ckpt").write_bytes(b"a ghost's")
    with pytest.raises(SupersededError, match="trial 3 was given to another attempt"):
        first.send()
    second.end()


def test_a_trial_whose_actor_is_known_to_be_lost_is_free_at_once(copy, host, tmp_path):
    first, second = copy("a"), copy("b")
    first.fetch(never)
    host.write(3, "a", "checkpoints/last.ckpt", 0, b"half", False)
    host.lost(3)
    second.fetch(never)
    assert files(second.directory) == {}
    assert not list((tmp_path / "sweep").rglob(".*.part")), "half a file goes"


@pytest.mark.parametrize("name", ["../../study.db", "/etc/passwd", "", "a/../../b"])
def test_a_node_writes_nothing_outside_its_trial(host, name):
    host.begin(3, "a")
    with pytest.raises(ValueError, match=r"is no file of a trial's directory"):
        host.write(3, "a", name, 0, b"", True)
    with pytest.raises(ValueError, match=r"history\.csv of trial 3 is the driver's own"):
        host.write(3, "a", "history.csv", 0, b"", True)


def test_a_dataset_is_packed_and_unpacked_to_the_same_bytes(tmp_path):
    source = tmp_path / "data"
    (source / "train").mkdir(parents=True)
    (source / "train" / "a.bin").write_bytes(bytes(range(256)) * 50)
    (source / "info.json").write_text("{}")
    (source / ".x.lock").touch()
    chunks: list[bytes] = []
    pack(source, chunks.append, chunk_bytes=1000)
    assert {len(chunk) for chunk in chunks[:-1]} == {1000}
    assert unpack(tmp_path / "copy" / "data", lambda: chunks)
    assert not unpack(tmp_path / "copy" / "data", lambda: pytest.fail("it is there"))
    assert digest(tmp_path / "copy" / "data") == digest(source) is not None
    (source / "info.json").write_text("[1]")
    assert digest(source) != digest(tmp_path / "copy" / "data")
    assert digest(tmp_path / "nowhere") is None


def test_data_that_breaks_off_leaves_no_dataset(tmp_path):
    def broken():
        yield b"\0" * 10
        raise ConnectionError("the node is gone")

    with pytest.raises((ConnectionError, OSError)):
        unpack(tmp_path / "data", broken)
    assert not (tmp_path / "data").exists()


@pytest.fixture
def offer(tmp_path):
    """A function: whether copies are made in any case → what a driver offers whose data and sweep this machine sees."""
    data = tmp_path / "data" / "mnist"
    data.mkdir(parents=True)
    (data / "train").write_bytes(b"images")
    (tmp_path / "token").write_text("secret")

    def make(always: bool, token: str = "secret") -> Offer:
        root = str(tmp_path / "data")
        return Offer(str(tmp_path / "token"), token, always, str(tmp_path), root, (Dataset(str(data), digest(data)),))

    return make


def test_data_reaches_a_node_once_however_many_actors_it_has(offer, host, tmp_path):
    packed = []

    def data(directory: str) -> list[bytes]:
        chunks: list[bytes] = []
        pack(directory, chunks.append)
        packed.append(directory)
        return chunks

    base = tmp_path / "scratch"
    nodes = [Node(offer(True), host, name, data, base) for name in ("one", "one", "one", "two")]
    assert packed == [str(tmp_path / "data" / "mnist")] * 2
    assert [node.unpacked for node in nodes] == [1, 0, 0, 1]
    here = local(str(tmp_path / "data" / "mnist"), nodes[0].places)
    assert here.startswith(str(base))
    assert (tmp_path / here / "train").read_bytes() == b"images"
    assert local(str(tmp_path / "data" / "cifar10"), nodes[0].places).startswith(str(base))
    for node in nodes:
        assert any(base.iterdir())
        node.close()
    assert list(base.iterdir()) == [], "the last one removes the copies"


def test_a_node_that_sees_sweep_and_data_copies_nothing(offer, host, tmp_path):
    node = Node(offer(False), host, "one", lambda directory: pytest.fail("it sees the data"), tmp_path / "scratch")
    assignment = {"number": 3, "overrides": [], "directory": "/runs/a/trials/0003"}
    begun = node.begin(assignment)
    assert node.shared
    assert begun["directory"] == assignment["directory"]
    assert local(str(tmp_path / "data" / "mnist"), begun["places"]) == str(tmp_path / "data" / "mnist")
    node.send()
    node.close()
    assert not Node(offer(False, "another"), host, "one", lambda directory: [], tmp_path / "scratch").shared


def test_what_a_killed_node_left_is_removed_by_the_next(offer, host, tmp_path):
    base = tmp_path / "scratch"
    (base / "left-behind" / "trials").mkdir(parents=True)
    (base / "left-behind.held").touch()
    node = Node(offer(False), host, "one", lambda directory: [], base)
    assert not (base / "left-behind").exists()
    node.close()


@pytest.mark.slow
def test_a_trial_runs_in_the_node_s_copy_and_its_files_name_the_sweep_s(vimh_dataset, host, tmp_path):
    """The process of a trial, with the sweep's directory and the data elsewhere than the driver has them."""
    from lhtx.checkpoints import load_checkpoint
    from sweeps.trial import Assignment, Listener, run_trial

    driver_s_data = tmp_path / "not here" / vimh_dataset.name
    directory, origin = tmp_path / "node" / "0003", tmp_path / "sweep" / "0003"
    overrides = [
        "model=vimh_mlp",
        f"data.data_dir='{driver_s_data}'",
        "data.generate=null",
        "logger=none",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.accelerator=cpu",
    ]
    places = [(str(driver_s_data), str(vimh_dataset)), (str(origin), str(directory))]
    copy = TrialCopy(host, 3, "a", directory, places)
    copy.fetch(never)
    message = {"number": 3, "overrides": overrides, "directory": str(directory), "places": places}
    run_trial(Assignment.from_message(json.loads(json.dumps(message))), Listener())
    copy.end()
    assert f"data_dir: {driver_s_data}" in (origin / "config.yaml").read_text()
    callbacks = load_checkpoint(origin / "checkpoints" / "last.ckpt")["callbacks"]
    best = [state["best_model_path"] for state in callbacks.values() if state.get("best_model_path")]
    assert set(best) == {str(origin / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt")}
    for file in origin.rglob("*"):
        assert not file.is_file() or str(directory).encode() not in file.read_bytes(), file


def test_paths_are_rewritten_whole_components_only():
    state = {"/runs/a/best.ckpt": 1, "path": "/runs/a", "other": "/runs/ab", "score": 0.5}
    assert relocated(state, "/runs/a", "/b") == {"/b/best.ckpt": 1, "path": "/b", "other": "/runs/ab", "score": 0.5}
    assert local("/elsewhere", [("/runs", "/tmp")]) == "/elsewhere"
