"""The JSON and the directory name, and their agreement with the data."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lhtx.data.dataset import describe_dataset, open_dataset
from lhtx.data.info import DatasetInfo, parse_info, read_info
from lhtx.data.naming import NameHint, dataset_name, parse_name
from lhtx.data.parameters import Parameter
from lhtx.errors import DatasetError


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vimh-32x32x3_8000Hz_1p0s_256dss_simple_2p", NameHint(32, 32, 3, 256, 2, 8000, 1.0)),
        ("avix-vimh-64x32x5_16000Hz_0p25s_72dss_saw_wah_3p", NameHint(64, 32, 5, 72, 3, 16000, 0.25)),
        ("vimh-32x32_8000Hz_1p0s_16384dss_resonarium_2p", NameHint(32, 32, 1, 16384, 2, 8000, 1.0)),
        ("vimh-8x9x2", NameHint(8, 9, 2)),
        ("vimh-8x9x2_2p_copy", NameHint(8, 9, 2, parameters=2)),
        ("my_dataset_2p", NameHint()),
        ("vimh_dataset0", NameHint()),
    ],
)
def test_parse_name(name: str, hint: NameHint) -> None:
    assert parse_name(name) == hint


sizes = st.integers(1, 9999)


@given(sizes, sizes, sizes, sizes, st.sampled_from([0.001, 0.25, 1.0, 10.0, 12.5]), sizes, st.integers(0, 255))
def test_a_made_name_is_read_back(h: int, w: int, c: int, rate: int, duration: float, n: int, k: int) -> None:
    assert parse_name(dataset_name(h, w, c, rate, duration, n, "simple", k)) == NameHint(h, w, c, n, k, rate, duration)


def test_the_documented_name() -> None:
    assert dataset_name(32, 32, 3, 8000, 1.0, 256, "simple", 2) == "vimh-32x32x3_8000Hz_1p0s_256dss_simple_2p"


def test_the_json_says_what_it_says(hand_made) -> None:
    directory, _, _ = hand_made(sample_rate=8000, surprise={"a": 1})
    info = read_info(directory)
    assert (info.name, info.version, info.height, info.width, info.channels) == ("by hand", "2.1", 4, 5, 3)
    assert info.channel_labels == ("R", "G", "B")
    assert info.parameters == {"pitch": Parameter(0, 10, 2, "how high"), "level": Parameter(-1, 1)}
    assert info.varying == ("pitch", "level")
    assert (info.train_samples, info.test_samples, info.total_samples) == (7, 3, 10)
    assert info.extras == {"sample_rate": 8000, "surprise": {"a": 1}}


def test_a_description_is_written_as_it_is_read(hand_made) -> None:
    directory, _, _ = hand_made(channel_labels=["a", "b", "c"], duration=1.5, fixed_parameters={"x": {"value": 1}})
    info = read_info(directory)
    assert parse_info(json.loads(json.dumps(info.as_json())), directory / "vimh_dataset_info.json") == info


@pytest.mark.parametrize(
    "changes",
    [
        {"varying_parameters": ["level"]},
        {"varying_parameters": 1, "fixed_parameters": {"pitch": {"value": 3}}},
    ],
)
def test_the_varying_parameters_may_be_names_or_a_count(hand_made, changes: dict) -> None:
    assert read_info(hand_made(**changes)[0]).varying == ("level",)


@pytest.mark.parametrize("size", ["4x5x3", [4, 5, 3], [3, 4, 5], [4, 5], None])
def test_the_image_size_may_be_said_again(hand_made, size: object) -> None:
    assert read_info(hand_made(image_size=size)[0]).height == 4


def test_all_named_parameters_vary_where_the_json_is_silent(hand_made) -> None:
    assert read_info(hand_made(varying_parameters=None)[0]).varying == ("pitch", "level")


def test_the_counts_have_other_names_too(hand_made) -> None:
    directory, _, _ = hand_made(train_samples=None, num_train_samples=7, total_samples=None, n_samples=10)
    info = describe_dataset(directory)
    assert (info.train_samples, info.total_samples) == (7, 10)


PARAMETERS = {"pitch": {"min": 0, "max": 10, "step": 2}, "level": {"min": -1, "max": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "HIMV"}, "format is 'HIMV'; expected 'VIMH'"),
        ({"height": None, "channels": None}, "height, channels missing"),
        ({"width": 0}, "width is 0; expected a whole number of at least 1"),
        ({"width": "32"}, "width is '32'; expected a whole number"),
        ({"image_size": "4x5x1"}, "image_size is '4x5x1', but height, width and channels make '4x5x3'"),
        ({"image_size": [4, 5, 1]}, r"image_size is \[4, 5, 1\], but height, width and channels make '4x5x3'"),
        ({"image_size": [5, 4]}, r"image_size is \[5, 4\], but"),
        ({"version": None}, "version is missing; expected one of 2.0, 2.1"),
        ({"label_encoding": {"metadata_bytes": 6}}, "version 2.1 has records with 14 header bytes, but .* is 6"),
        ({"channel_labels": ["R", "G"]}, r"channel_labels is \['R', 'G'\]; expected 3 different strings"),
        ({"channel_labels": ["R", "G", "R"]}, "expected 3 different strings"),
        ({"parameter_names": None}, "parameter_names is None; expected a list"),
        ({"parameter_mappings": {"pitch": {"min": 0, "max": 1}}}, "parameter_mappings has no level; it has pitch"),
        ({"parameter_mappings": PARAMETERS | {"level": {"min": 1, "max": 1}}}, "'level' varies, but its min and max are"),
        ({"varying_parameters": ["pitsch"]}, r"varying_parameters names \['pitsch'\]; parameter_names has pitch, level"),
        ({"varying_parameters": [["pitch"]]}, "expected different strings"),
        ({"varying_parameters": 3}, "varying_parameters is 3, but parameter_names .* leaves 2: pitch, level"),
        ({"fixed_parameters": [1]}, r"fixed_parameters is \[1\]; expected an object"),
        ({"total_samples": 11}, "7 train and 3 test samples make 10, not 11 in total"),
        ({"n_samples": 9}, "'total_samples': 10, 'n_samples': 9.* contradict each other"),
        ({"layout": "WHC"}, "layout is 'WHC'; expected 'CHW' or 'HWC'"),
    ],
)
def test_a_senseless_json_is_refused(hand_made, changes: dict, message: str) -> None:
    directory, _, _ = hand_made(**changes)
    with pytest.raises(DatasetError, match=f"vimh_dataset_info.json: .*{message}"):
        read_info(directory)


@pytest.mark.parametrize(
    ("name", "changes", "values"),
    [
        ("vimh-4x5x1_2p", {}, ("channels", 1, 3, 3)),
        ("vimh-4x5_2p", {}, ("channels", 1, 3, 3)),
        ("vimh-4x5x3_2p", {"channels": 4}, ("channels", 3, 4, 3)),
        ("vimh-4x5x4_2p", {"channels": 4}, ("channels", 4, 4, 3)),
        ("vimh-9x5x3", {}, ("height", 9, 4, 4)),
        ("vimh-4x6x3", {}, ("width", 6, 5, 5)),
        ("vimh-4x5x3_3p", {}, ("number of varying parameters", 3, 2, 2)),
        ("vimh-4x5x3_11dss", {}, ("number of samples", 11, 10, 10)),
        ("plain", {"train_samples": 8, "total_samples": 11}, ("number of train samples", "nothing", 8, 7)),
        ("plain", {"test_samples": 2, "total_samples": 9}, ("number of test samples", "nothing", 2, 3)),
        ("vimh-4x5x3_8000Hz", {"sample_rate": 16000}, ("sample rate in Hz", 8000, 16000, "nothing")),
        ("vimh-4x5x3_1p0s", {"duration": 0.5}, ("duration in seconds", 1.0, 0.5, "nothing")),
    ],
)
def test_a_contradiction_names_all_three_values(hand_made, name: str, changes: dict, values: tuple) -> None:
    directory, _, _ = hand_made(name=name, **changes)
    quantity, named, described, stored = values
    expected = (
        f"the {quantity} is contradictory: the directory name says {named}, vimh_dataset_info.json says {described}, "
        f"the data says {stored}"
    )
    with pytest.raises(DatasetError) as error:
        open_dataset(directory)
    assert expected in str(error.value)


def test_a_name_that_agrees_is_fine(hand_made) -> None:
    directory, _, _ = hand_made(name="avix-vimh-4x5x3_8000Hz_1p0s_10dss_hand_2p", sample_rate=8000, duration=1)
    assert len(open_dataset(directory).train) == 7


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere does not exist, so there is no vimh_dataset_info"):
        read_info(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="exists but holds no vimh_dataset_info"):
        read_info(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '"VIMH"', b"\xff\xfe\x00"])
def test_a_json_that_is_none(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "vimh_dataset_info.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DatasetError, match=r"vimh_dataset_info\.json: "):
        read_info(tmp_path)


def test_head_free_description() -> None:
    info = DatasetInfo("n", "2.0", 1, 1, 1, ("Gray",), {}, ())
    assert info.as_json()["label_encoding"]["metadata_bytes"] == 6
