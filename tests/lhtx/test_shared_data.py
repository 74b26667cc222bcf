"""Images that the processes of a machine hold once: the same values, and those of the files as they are now."""

import numpy as np
import pytest
import torch

from lhtx.data import shared
from lhtx.data.batches import StreamedImages
from lhtx.data.records import MappedImages, Shape, pack, record_dtype


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv(shared.VARIABLE, str(tmp_path / "shared"))
    monkeypatch.setattr(shared, "LEAST_BYTES", 1)
    return tmp_path / "shared"


def mapped(path, seed):
    images = np.random.default_rng(seed).integers(0, 256, (7, 2, 3, 4), dtype=np.uint8)
    pack("2.0", images, np.array([0]), np.zeros((7, 1), np.uint8), None).tofile(path)
    return MappedImages(path, record_dtype("2.0", Shape(3, 4, 2, 1, 1)))


@pytest.mark.parametrize("channels", [[0, 1], [1]])
def test_the_values_are_those_that_each_process_would_load(directory, tmp_path, channels):
    array = np.random.default_rng(3).integers(0, 256, (5, 2, 3, 4), dtype=np.uint8)
    images = StreamedImages([mapped(tmp_path / "records", 1), array], channels)
    first, second = shared.load(images), shared.load(images)
    assert torch.equal(first, images.load())
    assert torch.equal(second, first)
    assert len(list(directory.glob("*.images"))) == 1
    first.zero_()  # nobody does; if somebody did, the others would not see it
    assert torch.equal(second, images.load())


def test_a_changed_file_a_changed_array_and_other_channels_are_other_images(directory, tmp_path):
    array = np.zeros((5, 2, 3, 4), np.uint8)
    before = shared.load(StreamedImages([mapped(tmp_path / "records", 1), array], [0, 1])).clone()
    changed = StreamedImages([mapped(tmp_path / "records", 2), array], [0, 1])
    assert torch.equal(shared.load(changed), changed.load())
    assert not torch.equal(shared.load(changed), before)
    array[2] = 9
    assert torch.equal(shared.load(changed), changed.load())
    other = StreamedImages(changed.sources, [1])
    assert torch.equal(shared.load(other), other.load())
    assert len(list(directory.glob("*.images"))) == 4


def test_where_nothing_can_be_written_each_process_loads_for_itself_and_says_so(directory, tmp_path, capsys):
    directory.write_text("a file is in the way")
    images = StreamedImages([mapped(tmp_path / "records", 1)], [0])
    assert torch.equal(shared.load(images), images.load())
    assert "this process's own memory" in capsys.readouterr().out
