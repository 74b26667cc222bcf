"""The contact sheet of a dataset: the pixels and the values that are stored, for binary and for pickled files."""

import json
import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from lhtx.data import view
from lhtx.data.dataset import open_dataset
from lhtx.data.info import INFO_FILE
from lhtx.data.view import contact_sheet, main, newest
from lhtx.errors import ConfigError, DatasetError


@pytest.fixture
def drawn(monkeypatch):
    """What `contact_sheet` hands to the layout: title, lines of the head, pictures, captions."""
    seen = {}

    def sheet(title, head, pictures, captions):
        seen.update(title=title, head=head, pictures=pictures, captions=captions)
        return view_sheet(title, head, pictures, captions)

    view_sheet = view._sheet
    monkeypatch.setattr(view, "_sheet", sheet)
    return seen


@pytest.fixture
def coloured(tmp_path):
    """A pickled dataset of two 2×2 RGB images with one parameter without a step, as other programs write them."""
    directory = tmp_path / "coloured"
    directory.mkdir()
    images = np.array([[[255, 0, 0, 9], [0, 255, 0, 9], [0, 0, 255, 9]], [[1] * 4, [2] * 4, [3] * 4]], dtype=np.uint8)
    info = {"format": "VIMH", "version": "2.0", "height": 2, "width": 2, "channels": 3, "parameter_names": ["gain"]}
    info["parameter_mappings"] = {"gain": {"min": 0.0, "max": 1.0}}
    (directory / INFO_FILE).write_text(json.dumps(info))
    batch = {"data": images.reshape(2, 12), "vimh_labels": [[1, 0, 0], [1, 0, 51]], "height": 2, "width": 2, "channels": 3}
    (directory / "train_batch").write_bytes(pickle.dumps(batch))
    return directory


def test_samples_and_captions_are_those_of_the_file(vimh_dataset, drawn):
    contact_sheet(vimh_dataset, count=7, seed=3)
    dataset = open_dataset(vimh_dataset)
    indices = [int(re.fullmatch(r"#(\d+)", lines[0])[1]) for lines in drawn["captions"]]
    assert indices == sorted(set(indices))
    assert len(indices) == 7
    for index, lines, picture in zip(indices, drawn["captions"], drawn["pictures"], strict=True):
        ids = list(dataset.info.parameters)
        note, decay = (int(dataset.train.labels([ids.index(name)])[index, 0]) for name in ("note_number", "log10_decay_time"))
        # 4 notes from 48 and 3 decay times from -2.0, in the bytes 0 … 255
        assert lines[1:] == [f"note_number {48 + note / 85:g}", f"log10_decay_time {round(-2 + note_step(decay), 4):g}"]
        assert picture.size == (3 * 96 + 2 * 3, 96)  # three channels of 32 pixels, three times as large
        left = np.asarray(picture)[:96:3, :96:3].astype(int).sum(axis=-1)
        stored = np.asarray(dataset.train.images[np.array([index])][0, 0]).astype(int)
        assert np.corrcoef(left.ravel(), stored.ravel())[0, 1] > 0.95  # brighter where the byte is larger


def note_step(stored: int) -> float:
    """A byte of log10_decay_time, 0, 128 or 255, as steps of 1.0 from its minimum."""
    return float(round(stored / 127.5))


def test_the_head_names_the_dataset_its_channels_and_its_parameters(vimh_dataset, drawn):
    contact_sheet(vimh_dataset, split="test", count=1000, channel=["*_envelope"])
    total = len(open_dataset(vimh_dataset).test)
    assert drawn["title"] == vimh_dataset.name
    assert drawn["head"] == [
        f"test: {total} of {total} samples (seed 0), drawn as stored, row 0 at the top",
        "32x32 pixels, channels R_temporal_envelope, R_spectral_envelope",
        "note_number: 48 … 51, 4 classes",
        "log10_decay_time: -2 … 0, 3 classes",
    ]
    assert {picture.size for picture in drawn["pictures"]} == {(2 * 96 + 3, 96)}


def test_pickled_colour_images_are_one_picture_each(coloured, drawn):
    contact_sheet(coloured)
    assert drawn["captions"] == [["#0", "gain 0"], ["#1", "gain 0.2"]]
    first = drawn["pictures"][0]
    assert first.size == (112, 112)
    assert [first.getpixel(place) for place in ((0, 0), (111, 0), (0, 111), (111, 111))] == [
        *((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)),
    ]
    contact_sheet(coloured, channel=["G"])
    assert drawn["pictures"][0].getpixel((111, 0)) == (255, 255, 255)  # one channel alone is grey


def test_the_seed_decides_what_is_shown(vimh_dataset, drawn):
    def shown(seed: int) -> list[str]:
        contact_sheet(vimh_dataset, count=5, seed=seed)
        return [lines[0] for lines in drawn["captions"]]

    assert shown(1) == shown(1) != shown(2)


@pytest.mark.parametrize("pictures", [1, 2, 3, 10, 25, 97])
@pytest.mark.parametrize("ratio", [0.2, 1.0, 6.0])
def test_a_sheet_is_about_as_wide_as_high_and_nearly_full(pictures, ratio):
    columns = view._columns(pictures, ratio)
    rows = -(-pictures // columns)
    assert 1 <= columns <= pictures
    assert columns * rows - pictures < columns
    if columns not in (1, pictures):
        assert 0.4 < columns / (rows * ratio) < 4


def test_the_command_writes_a_png_where_it_is_told(vimh_dataset, tmp_path, capsys):
    file = tmp_path / "new" / "sheet.png"
    assert main([str(vimh_dataset), "--count", "4", "--out", str(file)]) == 0
    with Image.open(file) as sheet:
        assert sheet.format == "PNG"
        assert capsys.readouterr().out == f"{file}: {sheet.width} × {sheet.height} pixels\n"


def test_without_a_directory_the_newest_dataset_is_shown(vimh_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for age, name in ((20, "older"), (10, "newer")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for file in vimh_dataset.iterdir():
            (tmp_path / "data" / name / file.name).symlink_to(file) if file.name != INFO_FILE else None
        info = tmp_path / "data" / name / INFO_FILE
        info.write_text((vimh_dataset / INFO_FILE).read_text())
        os.utime(info, (1e9 - age, 1e9 - age))
    assert newest(tmp_path / "data").name == "newer"
    assert main(["--count", "2"]) == 0
    assert (tmp_path / "logs" / "view" / "newer_train.png").exists()
    monkeypatch.chdir(tmp_path / "logs")
    assert main([]) == 2
    assert "which dataset? There is none under" in capsys.readouterr().err


def test_what_cannot_be_shown_is_refused_by_name(vimh_dataset, coloured, tmp_path, capsys):
    with pytest.raises(ConfigError, match="--count is 0; expected 1 to"):
        contact_sheet(vimh_dataset, count=0)
    with pytest.raises(ConfigError, match="--seed is -1"):
        contact_sheet(vimh_dataset, seed=-1)
    with pytest.raises(ConfigError, match="'X' matches no channel; the channels are R, R_temporal_envelope"):
        contact_sheet(vimh_dataset, channel=["X"])
    with pytest.raises(ConfigError, match="has no test file"):
        contact_sheet(coloured, split="test")
    with pytest.raises(DatasetError, match="it is no VIMH dataset"):
        contact_sheet(tmp_path / "nowhere")
    assert main([str(vimh_dataset), "--out", "sheet.jpg"]) == 2
    assert "--out is sheet.jpg; expected a name that ends in .png" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
