"""MNIST from its published files: what is read, which labels are made of a digit, and what happens without the files."""

import gzip
import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from lhtx.data import MNISTDataModule, mnist
from lhtx.errors import DatasetError

FILES = tuple(mnist.FILES)


def _ready(directory: Path, **options) -> MNISTDataModule:
    datamodule = MNISTDataModule(directory, **{"use_random_split": False, "normalisation": "none", "download": False} | options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def _tests(datamodule: MNISTDataModule) -> dict[str, torch.Tensor]:
    batches = [datamodule.on_after_batch_transfer(batch, 0) for batch in datamodule.test_dataloader()]
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


@pytest.fixture
def gzipped(image_files: Path, tmp_path: Path, monkeypatch) -> Path:
    """A directory of the four files as they are published, gzipped, whose checksums are the expected ones."""
    directory = tmp_path / "published"
    directory.mkdir()
    for name in FILES:
        (directory / f"{name}.gz").write_bytes(gzip.compress((image_files / "mnist" / name).read_bytes()))
    sums = {name: hashlib.md5((directory / f"{name}.gz").read_bytes()).hexdigest() for name in FILES}
    monkeypatch.setattr(mnist, "FILES", sums)
    return directory


def test_images_and_digits_are_those_in_the_files(image_files: Path) -> None:
    batch = _tests(_ready(image_files / "mnist", heads=["digit"]))
    images = np.frombuffer((image_files / "mnist" / FILES[2]).read_bytes()[16:], np.uint8).reshape(20, 1, 28, 28)
    digits = (image_files / "mnist" / FILES[3]).read_bytes()[8:]
    assert np.allclose(batch["image"], images / 255)
    assert batch["index"][:, 0].tolist() == list(digits)
    assert batch["value"][:, 0].tolist() == pytest.approx([digit / 9 for digit in digits])


def test_gzipped_and_plain_files_are_the_same(image_files: Path, gzipped: Path) -> None:
    for one, other in zip(_tests(_ready(image_files / "mnist")).values(), _tests(_ready(gzipped)).values(), strict=True):
        assert torch.equal(one, other)


def test_two_more_labels_are_made_of_the_digit(image_files: Path) -> None:
    datamodule = _ready(image_files / "mnist")
    assert datamodule.spec.head_sizes == {"digit": 10, "thickness": 5, "smoothness": 3}
    assert datamodule.spec.class_names["digit"] == list("0123456789")
    index = _tests(datamodule)["index"]
    for digit, thickness, smoothness in index.tolist():
        assert thickness == (min(4, digit // 2 + 2) if digit % 2 else digit // 2)
        assert smoothness == {1: 0, 4: 0, 7: 0, 2: 1, 5: 1}.get(digit, 2)
    assert set(index[:, 0].tolist()) == set(range(10))


def test_plain_files_can_be_streamed(image_files: Path) -> None:
    streamed, loaded = (_ready(image_files / "mnist", in_memory=there) for there in (False, True))
    assert streamed.streams
    assert torch.equal(_tests(streamed)["image"], _tests(loaded)["image"])


def test_missing_files_are_fetched_once(gzipped: Path, tmp_path: Path, capfd) -> None:
    directory = tmp_path / "data" / "mnist"
    directory.mkdir(parents=True)
    shutil.copy(gzipped / f"{FILES[0]}.gz", directory)

    def prepare(_: int) -> None:
        MNISTDataModule(directory, mirrors=["http://127.0.0.1:9/nothing", gzipped.as_uri()]).prepare_data()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, range(4)))  # trials that start together wait for one of them
    assert sorted(file.name for file in directory.iterdir()) == sorted(f"{name}.gz" for name in FILES)
    fetched = [line for line in capfd.readouterr().err.splitlines() if gzipped.as_uri() in line]
    assert sorted(fetched) == sorted(f"fetching {gzipped.as_uri()}/{name}.gz" for name in FILES[1:])
    assert len(_ready(directory).split.test) == 20


def test_a_damaged_download_is_refused(gzipped: Path, tmp_path: Path) -> None:
    file = gzipped / f"{FILES[0]}.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(
        DatasetError, match=f"{FILES[0]}.gz: got .* bytes with the MD5 checksum .*; expected {mnist.FILES[FILES[0]]}"
    ):
        MNISTDataModule(tmp_path / "mnist", mirrors=[gzipped.as_uri()]).prepare_data()
    assert list((tmp_path / "mnist").iterdir()) == []


@pytest.mark.parametrize("download", [False, True])
def test_without_files_the_error_says_what_belongs_where(tmp_path: Path, download: bool) -> None:
    datamodule = MNISTDataModule(
        tmp_path / "mnist", download=download, mirrors=["http://127.0.0.1:9/a", "http://127.0.0.1:9/b"]
    )
    with pytest.raises(DatasetError) as error:
        datamodule.prepare_data()
    for words in (f"no MNIST in {tmp_path / 'mnist'}", *FILES, ".gz", "http://127.0.0.1:9/a and http://127.0.0.1:9/b"):
        assert words in str(error.value)
    assert ("Fetching failed: http://127.0.0.1:9/a/train-images-idx3-ubyte.gz: <urlopen" in str(error.value)) is download


def test_a_single_missing_file_is_named(image_files: Path, tmp_path: Path) -> None:
    shutil.copytree(image_files / "mnist", tmp_path / "mnist")
    (tmp_path / "mnist" / FILES[2]).unlink()
    with pytest.raises(DatasetError, match=f"no MNIST in .*mnist, as {FILES[2]} is missing"):
        _ready(tmp_path / "mnist")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (FILES[0], lambda c: c[:-5], r"cut short: 47051 bytes; expected 47056"),
        (FILES[1], lambda c: c[:4] + (59).to_bytes(4, "big") + c[8:-1], "has 59 labels; expected 60, as there are images"),
        (FILES[1], lambda c: c[:10] + b"\x0b" + c[11:], "label 2 is 11; expected 0 to 9"),
        (FILES[3], lambda c: b"", "begins with the bytes of an empty file"),
    ],
)
def test_files_that_make_no_sense_are_refused(image_files: Path, tmp_path: Path, name: str, change, message: str) -> None:
    shutil.copytree(image_files / "mnist", tmp_path / "mnist")
    (tmp_path / "mnist" / name).write_bytes(change((image_files / "mnist" / name).read_bytes()))
    with pytest.raises(DatasetError, match=f"{name}: {message}"):
        _ready(tmp_path / "mnist")


def test_the_published_files_are_those_of_the_four_checksums() -> None:
    assert [len(md5) for md5 in mnist.FILES.values()] == [32] * 4
    assert all(mirror.startswith("https://") for mirror in mnist.MIRRORS)
