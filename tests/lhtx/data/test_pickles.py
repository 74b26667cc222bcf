"""Pickles: what is read from them, and that nothing in them runs."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from lhtx.data.dataset import open_dataset
from lhtx.data.pickles import load
from lhtx.errors import DatasetError


def _rows(values: np.ndarray) -> list[list[int]]:
    return [[2, 0, int(first), 1, int(second)] for first, second in values]


def _content(samples: dict[str, np.ndarray], **changes) -> dict:
    data = samples["images"].reshape(len(samples["images"]), -1)
    content = {"data": data, "vimh_labels": _rows(samples["values"]), "height": 4, "width": 5, "channels": 3} | changes
    return {key: value for key, value in content.items() if value is not None}


@pytest.fixture
def pickled(hand_made):
    """Returns a function (changes of the train pickle, protocol, JSON changes) → (directory, train samples)."""

    def make(protocol: int = 4, json_changes: dict | None = None, **changes):
        directory, train, test = hand_made(binary=False, **(json_changes or {}))
        content = changes.pop("content", None) or _content(train, **changes)
        (directory / "train_batch").write_bytes(pickle.dumps(content, protocol))
        (directory / "test_batch").write_bytes(pickle.dumps(_content(test), protocol))
        return directory, train

    return make


def _assert_equal(directory: Path, train: dict[str, np.ndarray]) -> None:
    samples = open_dataset(directory).train
    assert (samples.images[:] == train["images"]).all()
    assert samples.images[:].shape == (7, 3, 4, 5)
    assert (samples.labels([0, 1]) == train["values"]).all()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(pickled, protocol: int) -> None:
    _assert_equal(*pickled(protocol))


@pytest.mark.parametrize("key", ["vimh_labels", "labels", "multihead_labels", "cifar100mh_labels"])
def test_the_labels_have_four_names(pickled, hand_made, key: str) -> None:
    directory, train = pickled()
    content = _content(train, **({"vimh_labels": None} | {key: _rows(train["values"])}))
    (directory / "train_batch").write_bytes(pickle.dumps(content))
    _assert_equal(directory, train)


@pytest.mark.parametrize(
    "form",
    [
        np.array,
        lambda rows: np.array(rows, dtype=np.float64),
        lambda rows: np.array(rows, dtype=">i4"),
        lambda rows: np.asfortranarray(np.array(rows)),
        lambda rows: np.array(rows, dtype=object),
        lambda rows: [np.array(row) for row in rows],
        lambda rows: tuple(tuple(np.int64(number) for number in row) for row in rows),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_the_rows_come_in_many_forms(pickled, form, protocol: int) -> None:
    directory, train = pickled()
    content = _content(train, vimh_labels=form(_rows(train["values"])))
    (directory / "train_batch").write_bytes(pickle.dumps(content, protocol))
    _assert_equal(directory, train)


def test_interleaved_rows_are_made_planar(pickled) -> None:
    directory, train = pickled()
    interleaved = train["images"].transpose(0, 2, 3, 1).reshape(7, -1)
    (directory / "train_batch").write_bytes(pickle.dumps(_content(train, data=interleaved, layout="HWC")))
    _assert_equal(directory, train)


def test_the_json_may_tell_the_layout_and_the_pickle_decides(pickled) -> None:
    directory, train = pickled(json_changes={"layout": "HWC"}, layout="CHW")
    assert (open_dataset(directory, test=False).train.images[:] == train["images"]).all()
    interleaved = train["images"].transpose(0, 2, 3, 1).reshape(7, -1)
    (directory / "train_batch").write_bytes(pickle.dumps(_content(train, data=interleaved)))
    assert (open_dataset(directory, test=False).train.images[:] == train["images"]).all()


def test_unknown_keys_byte_keys_and_other_containers_do_not_matter(pickled) -> None:
    directory, train = pickled()
    more = {"scale_factors": np.ones((7, 2), np.float32), "names": np.array(["a", "bc"]), "set": {1, 2}, "raw": b"\xff"}
    content = {key.encode(): value for key, value in _content(train, **more).items()}
    (directory / "train_batch").write_bytes(pickle.dumps(OrderedDict(content), 2))
    _assert_equal(directory, train)


def test_binary_is_preferred(hand_made) -> None:
    directory, train, _ = hand_made()
    (directory / "train_batch").write_bytes(b"never opened")
    assert (open_dataset(directory).train.images[:] == train["images"]).all()


def test_a_pickle_dataset_needs_no_known_version(pickled) -> None:
    _assert_equal(*pickled(json_changes={"version": "1.0"}))


class _Evil:
    def __init__(self, call, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        (os.system, ("touch {}",), "posix.system"),
        (eval, ("open({!r}, 'w')",), "builtin.*.eval"),
        (exec, ("open({!r}, 'w')",), "builtin.*.exec"),
        (getattr, ((), "__class__"), "builtin.*.getattr"),
        (np.fromfile, ("{}",), "numpy.fromfile"),
        (np.load, ("{}",), "numpy.*load"),
        (io.open, ("{}", "w"), "open"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, call, arguments, name: str, protocol: int) -> None:
    target = tmp_path / "touched"
    arguments = tuple(a.format(str(target)) if isinstance(a, str) else a for a in arguments)
    file = tmp_path / "train_batch"
    file.write_bytes(pickle.dumps({"data": _Evil(call, *arguments)}, protocol))
    with pytest.raises(DatasetError, match=f"train_batch: .*asks for .*{name}.*refused: a pickle can run code"):
        load(file)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"hello",
        pickle.dumps({"data": list(range(100))})[:-20],
        b"cnumpy\ndtype\n(S'V8'\ntR.",  # a void type: neither numbers nor text
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O'\ntRS'12345678'\ntR.",  # an object from raw bytes
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I99\ntcnumpy\ndtype\n(S'u1'\ntRI00\nS'ab'\ntb.",
    ],
)
def test_a_broken_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(DatasetError, match="broken: not readable as a plain pickle"):
        load(tmp_path / "broken")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": [1, 2]}, "holds a list; expected a dictionary"),
        ({"height": 5}, "the height is contradictory: .* says nothing, .* says 4, the data says 5 .train_batch."),
        ({"width": "5"}, "width is '5'; expected a whole number"),
        ({"data": None}, "has no data; found vimh_labels, height, width, channels"),
        ({"data": np.zeros((7, 59), np.uint8)}, r"data has the shape \(7, 59\); expected \(samples, 60\)"),
        ({"data": np.full((7, 60), 256)}, "data holds values other than the whole numbers 0 to 255"),
        ({"data": np.full((7, 60), 0.5)}, "data holds values other than the whole numbers 0 to 255"),
        ({"data": np.full((7, 60), np.nan)}, "data holds values other than the whole numbers 0 to 255"),
        ({"data": "text"}, "data is no table of bytes"),
        ({"layout": "WHC"}, "layout is 'WHC'; expected 'CHW' or 'HWC'"),
        ({"vimh_labels": None}, "has no labels; expected one of vimh_labels, labels.*found data, height"),
        ({"vimh_labels": [[2, 0, 1, 1, 2]] * 6}, r"vimh_labels has the shape \(6, 5\); expected \(7, 5\)"),
        ({"vimh_labels": [[2, 0, 1, 1, 2]] * 4 + [[1, 0, 1]] * 3}, "vimh_labels, record 4: found 3; expected 5 numbers"),
        ({"vimh_labels": [[2, 0, [1, 2], 1, 2]] * 7}, "vimh_labels is no table of bytes"),
        ({"vimh_labels": [[2, 0, 1, 1, 2]] * 6 + [7]}, "vimh_labels, record 6: found 0; expected 5 numbers"),
        (
            {"vimh_labels": [[2, 0, 1, 1, 2]] * 5 + [[3, 0, 1, 1, 2]] * 2},
            "vimh_labels, record 5: found 3; expected a count of 2",
        ),
        (
            {"vimh_labels": [[2, 0, 1, 1, 2]] * 6 + [[2, 0, 1, 2, 2]]},
            r"vimh_labels, record 6: found \[0, 2\]; expected ids from 0 to 1",
        ),
        ({"vimh_labels": [[2, 0, 1, 1, 256]] * 7}, "vimh_labels holds values other than the whole numbers 0 to 255"),
    ],
)
def test_senseless_content_is_refused(pickled, changes: dict, message: str) -> None:
    directory, _ = pickled(**changes)
    with pytest.raises(DatasetError, match=f"(train_batch|by_hand): {message}"):
        open_dataset(directory)
