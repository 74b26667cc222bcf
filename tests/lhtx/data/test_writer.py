"""The writer: what it writes is read back, and a directory appears whole or not at all."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lhtx.data.dataset import open_dataset
from lhtx.data.info import DatasetInfo, read_info
from lhtx.data.parameters import Parameter
from lhtx.data.writer import Chunk, write_dataset
from lhtx.errors import DatasetError

INFO = DatasetInfo("made", "2.1", 2, 3, 1, ("Gray",), {"a": Parameter(0, 1), "b": Parameter(0, 4, 1)}, ("a", "b"))


def _chunk(count: int, info: DatasetInfo = INFO, seed: int = 0) -> Chunk:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, info.channels, info.height, info.width), dtype=np.uint8)
    values = generator.integers(0, 256, (count, len(info.varying)), dtype=np.uint8)
    decibels = np.tile(np.float32([-80, 0]), (count, 1)) if info.version == "2.1" else None
    return Chunk(images, values, decibels)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["2.0", "2.1"]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(1, 9),
    st.integers(0, 4),
)
def test_what_is_written_is_read_back(tmp_path_factory, version, height, width, channels, parameters, train, test) -> None:
    names = {f"p{i}": Parameter(0, i + 1, 1) for i in range(parameters)}
    labels = tuple(f"c{i}" for i in range(channels))
    info = DatasetInfo("made", version, height, width, channels, labels, names, tuple(names), extras={"duration": 1.5})
    directory = tmp_path_factory.mktemp("written") / "set"
    chunks = [_chunk(train, info), _chunk(2, info, 1)]
    written = write_dataset(directory, info, chunks, [_chunk(test, info, 2)])
    dataset = open_dataset(directory)
    assert dataset.info == written == replace(info, train_samples=train + 2, test_samples=test, total_samples=train + 2 + test)
    assert (dataset.train.images[:] == np.concatenate([chunk.images for chunk in chunks])).all()
    assert (dataset.train.labels(list(range(parameters))) == np.concatenate([c.values for c in chunks])).all()
    assert len(dataset.test) == test


def test_the_varying_parameters_are_written_under_their_ids(tmp_path: Path) -> None:
    info = replace(INFO, varying=("b",))
    write_dataset(tmp_path / "set", info, [_chunk(4, info)])
    samples = open_dataset(tmp_path / "set").train
    assert samples.ids.tolist() == [[1]] * 4
    assert (samples.labels([1]) == _chunk(4, info).values).all()


def _files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.suffix != ".lock")


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    def chunks():
        yield _chunk(3)
        assert any(".partial-" in name for name in _files(tmp_path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", INFO, chunks())
    assert _files(tmp_path) == []


def test_the_leftovers_of_a_killed_writer_are_removed_and_no_other(tmp_path: Path) -> None:
    for name in (".set.partial-123", ".settle.partial-123", "set.partial-123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train").write_bytes(b"half")
    write_dataset(tmp_path / "set", INFO, [_chunk(3)])
    assert _files(tmp_path) == [".settle.partial-123", "set", "set.partial-123"]


def test_an_existing_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_text("precious")
    with pytest.raises(DatasetError, match="set exists and is left as it is"):
        write_dataset(tmp_path / "set", INFO, [_chunk(3)])
    assert _files(tmp_path / "set") == ["mine"]
    assert _files(tmp_path) == ["set"]


def test_a_directory_whose_name_contradicts_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"number of samples is contradictory: the directory name says 5, .* says 3"):
        write_dataset(tmp_path / "vimh-2x3_5dss", INFO, [_chunk(3)])
    assert _files(tmp_path) == []


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (replace(_chunk(2), images=_chunk(2).images.astype(float)), "images are float64"),
        (replace(_chunk(2), images=_chunk(2).images.transpose(0, 1, 3, 2)), r"images are uint8 \(2, 1, 3, 2\)"),
        (replace(_chunk(2), values=_chunk(3).values), r"label values are uint8 \(3, 2\); expected uint8 \(2, 2\)"),
        (replace(_chunk(2), decibels=None), "dB range"),
    ],
)
def test_a_chunk_of_another_shape_is_refused(tmp_path: Path, chunk: Chunk, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / "set", INFO, [chunk])
    assert _files(tmp_path) == []


def test_a_version_that_we_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"version '1.0' cannot be written; 2.0, 2.1 can"):
        write_dataset(tmp_path / "set", replace(INFO, version="1.0"), [])


def test_two_writers_of_one_directory_take_turns(tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()
    results: dict[str, str] = {}

    def slow():
        started.set()
        release.wait(120)
        yield _chunk(3)

    def write(writer: str, chunks) -> None:
        try:
            write_dataset(tmp_path / "set", INFO, chunks)
            results[writer] = "made"
        except DatasetError as error:
            results[writer] = str(error)

    first = threading.Thread(target=write, args=("first", slow()))
    first.start()
    assert started.wait(120)
    second = threading.Thread(target=write, args=("second", [_chunk(9)]))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    release.set()
    first.join(120)
    second.join(120)
    assert results["first"] == "made"
    assert "exists and is left as it is" in results["second"]
    assert read_info(tmp_path / "set").train_samples == 3
