"""The binary reader: what it reads, and where it says that a file is broken."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from lhtx.data.dataset import describe_dataset, open_dataset
from lhtx.data.records import MappedImages, Shape, peek, record_dtype
from lhtx.errors import DatasetError

SIZES = {"2.0": 6 + 1 + 2 * 2 + 60, "2.1": 14 + 1 + 2 * 2 + 60}
versions = pytest.mark.parametrize("version", ["2.0", "2.1"])


def _change(file: Path, offset: int, content: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(offset)
        stream.write(content)


@versions
def test_the_records_are_what_was_packed(hand_made, version: str) -> None:
    directory, train, test = hand_made(version)
    dataset = open_dataset(directory)
    for samples, packed in ((dataset.train, train), (dataset.test, test)):
        assert (samples.images[:] == packed["images"]).all()
        assert (samples.labels([0, 1]) == packed["values"]).all()
        assert (samples.labels([1]) == packed["values"][:, 1:]).all()
        if version == "2.1":
            assert (samples.decibels == packed["decibels"]).all()
        else:
            assert samples.decibels is None


@versions
def test_the_record_size(version: str) -> None:
    assert record_dtype(version, Shape(4, 5, 3, 2, 2)).itemsize == SIZES[version]


@pytest.mark.parametrize("parameters", [0, 1, 255])
def test_a_record_has_up_to_255_labels(tmp_path: Path, parameters: int) -> None:
    file = tmp_path / "train"
    file.write_bytes(struct.pack("<HHHB", 1, 2, 1, parameters) + bytes(2 * parameters) + b"ab")
    assert peek(file, "2.0") == Shape(1, 2, 1, parameters, 256)
    assert record_dtype("2.0", Shape(1, 2, 1, parameters, 256)).itemsize == file.stat().st_size


def test_labels_may_stand_in_any_order(hand_made) -> None:
    directory, train, _ = hand_made("2.0")
    values = train["values"][3]
    _change(directory / "train", 3 * SIZES["2.0"] + 7, bytes([1, values[1], 0, values[0]]))
    assert (open_dataset(directory).train.labels([0, 1]) == train["values"]).all()


def test_the_images_stay_on_disk_and_travel_to_a_worker_as_a_name(hand_made) -> None:
    images = open_dataset(hand_made()[0]).train.images
    assert isinstance(images, MappedImages)
    assert images[np.array([2, 0])].shape == (2, 3, 4, 5)
    sent = pickle.dumps(images)
    assert images[0].tobytes() not in sent
    assert (pickle.loads(sent)[:] == images[:]).all()  # noqa: S301 - its own pickle


@versions
@pytest.mark.parametrize(
    ("field", "content", "message"),
    [
        (0, b"\x05\x00", "the height is 5, expected 4"),
        (2, b"\x05\x01", "the width is 261, expected 5"),
        (4, b"\x01\x00", "the channels is 1, expected 3"),
    ],
)
def test_a_differing_header_is_refused_with_its_place(hand_made, version, field, content, message) -> None:
    directory, _, _ = hand_made(version)
    place = 4 * SIZES[version] + field
    _change(directory / "train", place, content)
    _change(directory / "train", 6 * SIZES[version], b"\xff")  # a later fault, which is not the one to be named
    with pytest.raises(DatasetError, match=f"train: record 4, byte {place}: {message}"):
        open_dataset(directory)


@versions
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("field", "content", "message"),
    [
        (0, b"\x05\x00", "the height is contradictory: .* says 4, the data says 5"),
        (2, b"\x05\x01", "the width is contradictory: .* says 5, the data says 261"),
        (4, b"\x01\x00", "the channels is contradictory: .* says 3, the data says 1"),
        ("N", b"\x03", "the number of varying parameters is contradictory: .* says 2, the data says 3"),
    ],
)
def test_a_first_header_that_differs_is_refused_with_its_place(hand_made, version, part, field, content, message) -> None:
    directory, _, _ = hand_made(version)
    place = {"2.0": 6, "2.1": 14}[version] if field == "N" else field
    _change(directory / part, place, content)
    with pytest.raises(DatasetError, match=rf"{message} \({directory / part}: record 0, byte {place}\)"):
        open_dataset(directory)


@versions
def test_a_differing_number_of_labels_is_refused_with_its_place(hand_made, version: str) -> None:
    directory, _, _ = hand_made(version)
    place = 2 * SIZES[version] + (6 if version == "2.0" else 14)
    _change(directory / "test", place, b"\x03")
    with pytest.raises(DatasetError, match=f"test: record 2, byte {place}: the number of labels is 3, expected 2"):
        open_dataset(directory)
    assert len(open_dataset(directory, test=False).train) == 7


@versions
@pytest.mark.parametrize("column", [0, 1])
def test_an_id_out_of_range_is_refused_with_its_place(hand_made, version: str, column: int) -> None:
    directory, _, _ = hand_made(version)
    place = 5 * SIZES[version] + (6 if version == "2.0" else 14) + 1 + 2 * column
    _change(directory / "train", place, b"\x02")
    with pytest.raises(DatasetError, match=f"train: record 5, byte {place}: parameter id 2 is out of range; .* 0 to 1"):
        open_dataset(directory)


def test_a_label_that_is_there_twice_is_refused_with_its_place(hand_made) -> None:
    directory, _, _ = hand_made("2.0")
    _change(directory / "train", 6 * SIZES["2.0"] + 9, b"\x00")
    samples = open_dataset(directory).train
    place = rf"train: record 6, byte {6 * SIZES['2.0'] + 7}"
    with pytest.raises(DatasetError, match=rf"{place}: parameter id 0 is labelled 2 times, .* \[0, 0\]"):
        samples.labels([0])
    with pytest.raises(DatasetError, match=rf"{place}: parameter id 1 is labelled 0 times"):
        samples.labels([1])


@pytest.mark.parametrize("decibels", [(float("nan"), 0.0), (0.0, float("inf")), (1.0, 0.0)])
def test_a_senseless_decibel_range_is_refused_with_its_place(hand_made, decibels: tuple[float, float]) -> None:
    directory, _, _ = hand_made("2.1")
    place = 3 * SIZES["2.1"] + 6
    _change(directory / "train", place, struct.pack("<ff", *decibels))
    with pytest.raises(DatasetError, match=f"train: record 3, byte {place}: the dB range is"):
        open_dataset(directory)


@versions
@pytest.mark.parametrize("lost", [1, 60])
def test_a_file_that_is_cut_short_is_refused_with_its_place(hand_made, version: str, lost: int) -> None:
    directory, _, _ = hand_made(version)
    size = SIZES[version]
    with (directory / "train").open("r+b") as stream:
        stream.truncate(7 * size - lost)
    with pytest.raises(DatasetError) as error:
        open_dataset(directory)
    assert f"train: record 6, byte {6 * size}: cut short: {size - lost} of {size} bytes are there" in str(error.value)


def test_a_byte_too_many_in_the_middle_is_found_where_it_begins_to_matter(hand_made) -> None:
    directory, _, _ = hand_made("2.0")
    content = (directory / "train").read_bytes()
    (directory / "train").write_bytes(content[: 2 * SIZES["2.0"] - 1] + b"x" + content[2 * SIZES["2.0"] - 1 :])
    with pytest.raises(DatasetError, match=rf"train: record 2, byte {2 * SIZES['2.0']}: the height"):
        open_dataset(directory)


def test_whole_records_missing_contradict_the_json(hand_made) -> None:
    directory, _, _ = hand_made("2.0")
    with (directory / "train").open("r+b") as stream:
        stream.truncate(5 * SIZES["2.0"])
    with pytest.raises(DatasetError, match=r"number of train samples is contradictory: .* says 7, the data says 5"):
        describe_dataset(directory)


def test_a_file_that_ends_in_its_first_header(hand_made) -> None:
    directory, _, _ = hand_made("2.1")
    with (directory / "train").open("r+b") as stream:
        stream.truncate(14)
    with pytest.raises(DatasetError, match=r"train: record 0, byte 14: the file ends inside the first header, .* 15 bytes"):
        describe_dataset(directory)


@pytest.mark.parametrize(("claimed", "held"), [("2.0", "2.1"), ("2.1", "2.0")])
def test_records_of_the_other_version_are_recognised(hand_made, claimed: str, held: str) -> None:
    directory, _, _ = hand_made(held)
    info = directory / "vimh_dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"version": claimed, "label_encoding": {}}))
    with pytest.raises(DatasetError, match=f"JSON says version {claimed} .* holds records of version {held}"):
        describe_dataset(directory)


def test_an_unknown_version_is_refused(hand_made) -> None:
    directory, _, _ = hand_made("2.0")
    info = directory / "vimh_dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"version": "3.0"}))
    with pytest.raises(DatasetError, match=r"train: records of version '3.0' are unknown; versions 2.0, 2.1 are read"):
        open_dataset(directory)


def test_a_dataset_may_have_no_test_file(hand_made) -> None:
    directory, _, _ = hand_made(test_samples=0, total_samples=7)
    (directory / "test").unlink()
    assert open_dataset(directory).test is None


def test_a_missing_test_file_contradicts_a_json_that_counts_its_samples(hand_made) -> None:
    directory, _, _ = hand_made()
    (directory / "test").unlink()
    with pytest.raises(DatasetError, match=r"number of test samples is contradictory: .* says 3, the data says 0"):
        open_dataset(directory)


def test_a_dataset_without_samples(hand_made) -> None:
    directory, _, _ = hand_made(binary=False)
    with pytest.raises(DatasetError, match=r"by_hand: .*expected a file train or train_batch"):
        open_dataset(directory)


def test_an_empty_file_has_no_records(hand_made) -> None:
    directory, _, _ = hand_made(test_samples=0, total_samples=7)
    (directory / "test").write_bytes(b"")
    assert len(open_dataset(directory).test) == 0
