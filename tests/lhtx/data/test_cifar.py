"""CIFAR-10 and CIFAR-100: both published versions give the same, archives are unpacked, and labels are the dataset's own."""

import hashlib
import os
import pickle
import shutil
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lhtx.data import CIFARDataModule, cifar
from lhtx.data.cifar_labels import CIFAR10, CIFAR100_COARSE, CIFAR100_FINE
from lhtx.errors import ConfigError, DatasetError

BINARY = {classes: dataset.versions[0] for classes, dataset in cifar.DATASETS.items()}
PYTHON = {classes: dataset.versions[1] for classes, dataset in cifar.DATASETS.items()}


def _ready(directory: Path, classes: int, **options) -> CIFARDataModule:
    defaults = {"use_random_split": False, "normalisation": "none", "download": False}
    datamodule = CIFARDataModule(directory, classes, **defaults | options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def _all(datamodule: CIFARDataModule) -> dict[str, torch.Tensor]:
    """Every sample in the order of the files."""
    return datamodule.train_dataloader().dataset[torch.arange(80)]


def _records(image_files: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (80, 1 or 2) and images (80, 3072) as the binary files have them."""
    folder, count = image_files / f"cifar{classes}" / BINARY[classes].folder, 1 if classes == 10 else 2
    content = b"".join((folder / name).read_bytes() for name in BINARY[classes].files)
    table = np.frombuffer(content, np.uint8).reshape(80, count + 3072)
    return table[:, :count], table[:, count:]


def _old_pickle(content: dict[bytes, object]) -> bytes:
    """A dictionary as Python 2 pickled it: text and arrays as byte strings, by the opcodes that are not written any more."""

    def packed(value: object) -> bytes:
        if isinstance(value, bytes):
            return b"T" + struct.pack("<i", len(value)) + value
        if isinstance(value, list):
            return b"](" + b"".join(map(packed, value)) + b"e"
        if isinstance(value, int):
            return b"K" + bytes([value])
        rows, columns = value.shape
        dtype = (
            b"cnumpy\ndtype\n(" + packed(b"u1") + b"K\0K\1tR(K\3" + packed(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        )
        shape = b"(M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"t"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t" + packed(b"b") + b"tR"
        return made + b"(K\1" + shape + dtype + b"\x89" + packed(value.tobytes()) + b"tb"

    items = b"".join(packed(key) + packed(value) for key, value in content.items())
    return b"\x80\x02}(" + items + b"u."


@pytest.fixture(params=["old", "new"])
def pickled(request, image_files: Path, tmp_path: Path):
    """Returns a function that makes the Python version of a dataset, and returns its directory."""

    def make(classes: int) -> Path:
        labels, images = _records(image_files, classes)
        folder = tmp_path / PYTHON[classes].folder
        folder.mkdir()
        start = 0
        for name in PYTHON[classes].files:
            count = {"train": 60, "test": 20, "test_batch": 20}.get(name, 12)
            rows = slice(start, start + count)
            keys = [b"labels"] if classes == 10 else [b"coarse_labels", b"fine_labels"]
            content = {b"data": images[rows], b"batch_label": b"a batch", b"filenames": [b"a.png"] * count}
            content |= {key: labels[rows, column].tolist() for column, key in enumerate(keys)}
            (folder / name).write_bytes(_old_pickle(content) if request.param == "old" else pickle.dumps(content, 2))
            start += count
        return tmp_path

    return make


@pytest.mark.parametrize("classes", [10, 100])
def test_images_and_labels_are_those_in_the_records(image_files: Path, classes: int) -> None:
    heads = {10: ["class"], 100: ["coarse", "fine"]}[classes]
    datamodule = _ready(image_files / f"cifar{classes}", classes, heads=heads)
    labels, images = _records(image_files, classes)
    found = _all(datamodule)
    assert (found["image"].numpy() == images.reshape(80, 3, 32, 32)).all()
    assert (found["index"].numpy() == labels).all()
    assert datamodule.split.test.tolist() == list(range(60, 80))


@pytest.mark.parametrize("classes", [10, 100])
def test_both_versions_give_the_same(image_files: Path, pickled, classes: int) -> None:
    one, other = _all(_ready(image_files / f"cifar{classes}", classes)), _all(_ready(pickled(classes), classes))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_files_may_lie_in_their_folder_or_without_it(image_files: Path, tmp_path: Path) -> None:
    folder = image_files / "cifar10" / BINARY[10].folder
    one, other = _all(_ready(folder, 10)), _all(_ready(folder.parent, 10))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_cifar10_has_three_labels_made_of_the_class(image_files: Path) -> None:
    datamodule = _ready(image_files / "cifar10", 10)
    names = datamodule.spec.class_names
    assert datamodule.spec.head_sizes == {"class": 10, "domain": 2, "mobility": 3, "size": 3}
    described = {
        tuple(names[head][index] for head, index in zip(names, row, strict=True)) for row in _all(datamodule)["index"].tolist()
    }
    assert described == {
        ("airplane", "vehicle", "air", "large"),
        ("automobile", "vehicle", "land", "medium"),
        ("bird", "animal", "air", "small"),
        ("cat", "animal", "land", "small"),
        ("deer", "animal", "land", "medium"),
        ("dog", "animal", "land", "medium"),
        ("frog", "animal", "water", "small"),
        ("horse", "animal", "land", "medium"),
        ("ship", "vehicle", "water", "large"),
        ("truck", "vehicle", "land", "large"),
    }


def test_the_classes_are_named_as_published() -> None:
    assert (len(CIFAR10), len(CIFAR100_FINE), len(CIFAR100_COARSE)) == (10, 100, 20)
    for names in (CIFAR10, CIFAR100_FINE, CIFAR100_COARSE):
        assert names == sorted(set(names))  # the published names are in alphabetical order
    spec = CIFARDataModule("nowhere", 100, heads=["fine", "coarse"]).spec
    assert spec.class_names["fine"][33:35] == ["forest", "fox"]
    assert spec.head_sizes == {"fine": 100, "coarse": 20}


def _archive(image_files: Path, directory: Path, monkeypatch) -> Path:
    """The tiny CIFAR-100 in its binary archive, whose checksum is the expected one."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / BINARY[100].archive
    with tarfile.open(file, "w:gz") as tar:
        tar.add(image_files / "cifar100" / BINARY[100].folder, BINARY[100].folder)
    version = replace(BINARY[100], md5=hashlib.md5(file.read_bytes()).hexdigest())
    dataset = replace(cifar.DATASETS[100], versions=(version, PYTHON[100]))
    monkeypatch.setitem(cifar.DATASETS, 100, dataset)
    return file


def test_an_archive_is_fetched_and_unpacked(image_files: Path, tmp_path: Path, monkeypatch) -> None:
    published = _archive(image_files, tmp_path / "published", monkeypatch)
    directory = tmp_path / "data" / "cifar100"
    datamodule = _ready(directory, 100, download=True, mirrors=[published.parent.as_uri()])
    assert torch.equal(_all(datamodule)["index"], _all(_ready(image_files / "cifar100", 100))["index"])
    assert [file.name for file in directory.iterdir()] == [BINARY[100].folder]  # the archive itself is not kept
    published.unlink()
    _ready(directory, 100, download=True, mirrors=[published.parent.as_uri()])  # nothing is fetched twice


def test_an_archive_that_lies_there_is_unpacked_and_left(image_files: Path, tmp_path: Path, monkeypatch) -> None:
    archive = _archive(image_files, tmp_path, monkeypatch)
    assert len(_ready(tmp_path, 100).split.test) == 20
    assert archive.is_file()


def test_a_damaged_archive_is_refused_with_its_checksum(image_files: Path, tmp_path: Path, monkeypatch) -> None:
    archive = _archive(image_files, tmp_path, monkeypatch)
    expected = cifar.DATASETS[100].versions[0].md5
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=rf"damaged or cut short: \d+ bytes with the MD5 checksum \w+; expected {expected}"):
        _ready(tmp_path, 100)
    with pytest.raises(DatasetError, match=rf"Fetching failed: .*MD5 checksum \w+; expected {expected}"):
        _ready(tmp_path / "new", 100, download=True, mirrors=[tmp_path.as_uri()])
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("classes", [10, 100])
def test_without_files_the_error_says_what_belongs_where(tmp_path: Path, classes: int) -> None:
    with pytest.raises(DatasetError) as error:
        _ready(tmp_path / "none", classes)
    named = [f"no cifar{classes} in {tmp_path / 'none'}", *cifar.MIRRORS, "data.download=true"]
    for version in (BINARY[classes], PYTHON[classes]):
        named += [version.archive, version.folder, *version.files]
    assert all(words in str(error.value) for words in named)


@pytest.mark.parametrize(
    ("classes", "change", "message"),
    [
        (10, lambda c: c[:-1], "cut short: 36875 bytes is no multiple of the 3073 that a record takes"),
        (10, lambda c: b"\x0a" + c[1:], "sample 0 has the class label 10; expected 0 to 9"),
        (100, lambda c: c[:3074] + b"\x14" + c[3075:], "sample 1 has the coarse label 20; expected 0 to 19"),
        (100, lambda c: c + b"?", "is no multiple of the 3074 that a record takes"),
    ],
)
def test_records_that_make_no_sense_are_refused(image_files: Path, tmp_path: Path, classes: int, change, message: str) -> None:
    shutil.copytree(image_files / f"cifar{classes}", tmp_path / "set")
    file = tmp_path / "set" / BINARY[classes].folder / BINARY[classes].train[-1]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DatasetError, match=f"{file.name}: .*{message}"):
        _ready(tmp_path / "set", classes)


@pytest.mark.parametrize(
    ("classes", "name", "kept", "message"),
    [
        (10, "data_batch_3.bin", 6, "holds 6 images; expected 12, as every train file has the same number"),
        (10, "data_batch_1.bin", 0, "holds 0 images; expected 12"),
        (10, "test_batch.bin", 0, "holds 0 images; expected some"),
        (100, "train.bin", 0, "holds 0 images; expected some"),
    ],
)
def test_files_that_end_between_two_samples_are_refused(
    image_files: Path, tmp_path: Path, classes: int, name: str, kept: int, message: str
) -> None:
    shutil.copytree(image_files / f"cifar{classes}", tmp_path / "set")
    file = tmp_path / "set" / BINARY[classes].folder / name
    file.write_bytes(file.read_bytes()[: kept * (3073 if classes == 10 else 3074)])
    with pytest.raises(DatasetError, match=f"{name}: cut short: it {message}"):
        _ready(tmp_path / "set", classes)


def test_published_files_have_the_published_sizes(image_files: Path, monkeypatch) -> None:
    assert [dataset.train_images for dataset in cifar.DATASETS.values()] == [10_000, 50_000]
    monkeypatch.setattr(cifar, "TEST_IMAGES", 20)
    with pytest.raises(DatasetError, match=r"train.bin: cut short: it holds 60 images; expected 50,000, as the other files"):
        _ready(image_files / "cifar100", 100)


class _Evil:
    def __reduce__(self):
        return os.system, ("echo run > evil",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": _Evil()}, "asks for posix.system, which is refused: a pickle can run code"),
        ([1], "holds a list; expected a dictionary"),
        ({"data": np.zeros((3, 3072), np.uint8), "fine_labels": [1, 2, 3]}, "has no coarse_labels; found data, fine_labels"),
        ({"data": np.zeros((3, 99), np.uint8)}, r"data has the shape \(3, 99\); expected \(samples, 3072\)"),
        (
            {"data": np.zeros((3, 3072), np.uint8), "fine_labels": [1, 2]},
            r"fine_labels has the shape \(2,\); expected .* 3 images",
        ),
        ({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1, 100]}, "sample 1 has the fine label 100; expected 0 to 99"),
    ],
)
def test_pickles_that_make_no_sense_are_refused(tmp_path: Path, content: object, message: str) -> None:
    if isinstance(content, dict) and "found data" not in message:
        content = {"coarse_labels": [0] * len(content.get("fine_labels", [])), "fine_labels": []} | content
        if "fine_labels has" in message:
            content["coarse_labels"] = [0] * 3
    for name in PYTHON[100].files:
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DatasetError, match=f"train: .*{message}"):
        _ready(tmp_path, 100)


def test_there_are_two_datasets() -> None:
    with pytest.raises(ConfigError, match="classes is 20; expected 10 or 100"):
        CIFARDataModule("nowhere", 20)
