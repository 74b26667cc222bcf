"""The generator: its recipes, its bytes, its command."""

import itertools
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lhtx.data.dataset import open_dataset
from lhtx.data.generate import main
from lhtx.data.parameters import class_index, class_values, dequantise
from lhtx.data.recipe import CHUNK, SYNTH_PARAMETERS, Recipe, generate
from lhtx.errors import ConfigError, DatasetError

TINY = {"height": 4, "width": 4, "duration": 0.05, "size": 20}


def _files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _make(directory: Path, **options) -> dict[str, bytes]:
    generate(Recipe.from_options(TINY | options), directory)
    return _files(directory)


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    options = {"size": 2 * CHUNK + 7, "noise": 0.1}
    first = _make(tmp_path / "a", **options)
    assert first == _make(tmp_path / "b", **options)
    other = _make(tmp_path / "c", **options, seed=1)
    assert set(first) == set(other) == {"train", "test", "vimh_dataset_info.json"}
    assert first["train"] != other["train"]


def test_noise_changes_the_images_alone(tmp_path: Path) -> None:
    for name, noise in (("clean", 0.0), ("noisy", 0.1)):
        _make(tmp_path / name, noise=noise)
    clean, noisy = (open_dataset(tmp_path / name).train for name in ("clean", "noisy"))
    assert (clean.values == noisy.values).all()
    assert (clean.images[:] != noisy.images[:]).any()


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    recipe = Recipe.from_options(
        {key: TINY[key] for key in ("height", "width", "duration")}
        | {"grid": True, "vary": {"note_velocity": {"min": 40, "max": 120, "step": 40}, "log10_decay_time": None}}
    )
    assert recipe.samples == 72
    generate(recipe, tmp_path / recipe.name)
    dataset = open_dataset(tmp_path / recipe.name)
    assert (len(dataset.train), len(dataset.test)) == (58, 14)
    labels = np.concatenate([dataset.train.labels([0, 1]), dataset.test.labels([0, 1])])
    parameters = dataset.info.parameters.values()
    classes = [
        class_index(dequantise(labels[:, i], p.minimum, p.maximum), p.minimum, p.maximum, p.step)
        for i, p in enumerate(parameters)
    ]
    assert sorted(zip(*(c.tolist() for c in classes), strict=True)) == list(itertools.product(range(3), range(24)))


def test_random_samples_take_every_class_about_equally(tmp_path: Path) -> None:
    _make(tmp_path / "set", size=600, vary={"note_number": {"min": 40, "max": 44, "step": 1}}, test_fraction=0)
    counts = np.bincount(open_dataset(tmp_path / "set").train.labels([0])[:, 0])[[0, 64, 128, 191, 255]]
    assert counts.sum() == 600
    assert counts.min() > 80


def test_the_image_sounds_like_its_labels(tmp_path: Path) -> None:
    """A note an octave higher sounds in higher bands, and a longer decay keeps the last frames louder."""
    _make(tmp_path / "set", size=200, height=32, width=32, duration=1.0)
    dataset = open_dataset(tmp_path / "set")
    note, decay = dataset.train.labels([0, 1]).T.astype(float)
    images = dataset.train.images[:].astype(float)
    assert dataset.info.channel_labels == ("R", "R_temporal_envelope", "R_spectral_envelope")
    fundamental = images[:, 0, :, 0].argmax(axis=1)  # the strongest band of the first frame
    assert np.corrcoef(fundamental, note)[0, 1] > 0.9
    assert np.corrcoef(images[:, 1, 0].mean(axis=1), decay)[0, 1] > 0.9


def test_the_description_tells_everything(tmp_path: Path) -> None:
    recipe = Recipe.from_options({"size": 10, "vary": {"note_number": None}, "fixed": {"note_velocity": 64}, "seed": 3})
    assert recipe.name == "vimh-32x32x3_8000Hz_1p0s_10dss_simple_1p"
    generate(recipe, tmp_path / recipe.name)
    info = open_dataset(tmp_path / recipe.name).info
    assert (info.version, info.name, info.total_samples) == ("2.1", recipe.name, 10)
    assert info.parameters == {"note_number": SYNTH_PARAMETERS["note_number"]}
    assert {name: entry["value"] for name, entry in info.fixed_parameters.items()} == {
        "note_velocity": 64,
        "log10_decay_time": -0.5,
    }
    assert info.extras["spectrogram_config"]["n_fft"] == 512
    assert info.extras["spectrogram_config"]["hop_length"] == 250
    assert Recipe.from_options(info.extras["generator"]).as_json() == recipe.as_json()


def test_values_without_a_step_are_those_that_a_byte_can_store() -> None:
    values = class_values(40, 120, 0)
    assert len(values) == 256
    assert (values[0], values[-1]) == (40, 120)


def test_a_second_call_finds_the_dataset_and_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = Recipe.from_options(TINY)
    assert generate(recipe, tmp_path / "set") is True
    before = _files(tmp_path / "set")
    assert generate(recipe, tmp_path / "set") is False
    assert generate(Recipe.from_options(recipe.as_json()), tmp_path / "set") is False
    unsized = {key: value for key, value in TINY.items() if key != "size"}
    assert generate(Recipe.from_options(unsized), tmp_path / "default") is True
    assert generate(Recipe.from_options(unsized | {"size": 256}), tmp_path / "default") is False
    with pytest.raises(DatasetError, match=r"set exists and was made by another recipe: seed is 0 there, 5 here. Delete it"):
        generate(Recipe.from_options(TINY | {"seed": 5}), tmp_path / "set")
    assert _files(tmp_path / "set") == before


def test_a_dataset_made_elsewhere_is_not_taken_for_the_recipes(hand_made) -> None:
    with pytest.raises(DatasetError, match="tells of no generator recipe: it was made elsewhere"):
        generate(Recipe.from_options(TINY), hand_made()[0])


def test_a_directory_name_that_contradicts_the_recipe_is_refused_before_the_work(tmp_path: Path) -> None:
    recipe = Recipe.from_options({"size": 10**9})
    with pytest.raises(DatasetError, match=r"the directory name says 256, .* says 1000000000"):
        generate(recipe, tmp_path / "vimh-32x32x3_256dss")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sead": 1}, "unknown generator option 'sead'; did you mean seed? Accepted: vary, fixed, size"),
        ({"vary": {"note_nmber": None}}, "vary: unknown parameter 'note_nmber'; did you mean note_number?"),
        ({"vary": {"x": {"min": 0, "max": 1}}}, "Accepted: note_number, note_velocity, log10_decay_time"),
        ({"fixed": {"loudness": 1}}, "fixed: unknown parameter 'loudness'"),
        ({"vary": {}}, "vary names no parameter; choose among note_number"),
        ({"vary": 3}, "vary is 3; expected a mapping"),
        ({"vary": {"note_number": {"min": 40}}}, "vary: 'note_number' has max = None; expected a finite number"),
        ({"vary": {"note_number": {"min": 1, "max": 2, "stop": 1}}}, "has unknown stop; accepted are min, max and step"),
        ({"vary": {"note_number": {"min": 50, "max": 40}}}, "has min 50.0 above max 40.0"),
        ({"vary": {"note_number": {"min": 50, "max": 50}}}, "expected min < max"),
        ({"vary": {"note_number": {"min": 50, "max": 200}}}, "note_number is 200.0; expected a number from 0 to 127"),
        ({"vary": {"note_number": {"min": 41, "max": 50, "step": 3}}}, "has min 41, no multiple of its step 3"),
        ({"vary": {"note_number": {"min": 41, "max": 50, "step": 3}}}, "39 and 42 are the nearest"),
        ({"vary": {"note_velocity": {"min": 1, "max": 127, "step": 0.25}}}, "has 505 steps from 1 to 127, but a byte"),
        ({"fixed": {"note_number": 60}}, "note_number cannot both vary and be fixed"),
        ({"fixed": {"note_velocity": "loud"}}, "note_velocity is 'loud'; expected a number from 1 to 127"),
        ({"size": 0}, "size is 0; expected a whole number of at least 1"),
        ({"size": 5, "grid": True}, "grid enumerates 576 samples, so size=5 cannot be given too"),
        ({"seed": -1}, "seed is -1; expected a whole number of at least 0"),
        ({"test_fraction": 1}, "test_fraction is 1; expected a number, at least 0 and below 1"),
        ({"noise": -0.1}, "noise is -0.1; expected a number, at least 0"),
        ({"width": 64, "duration": 0.001}, "at least one sample for each of the 64 frames, 0.008 s at 8000 Hz"),
        ({"envelopes": ["spectral"]}, "envelopes: unknown channel 'spectral'; did you mean spectral_envelope?"),
        ({"envelopes": ["spectral_envelope"] * 2}, "envelopes names a channel twice"),
        ({"sample_rate": 800}, "note_number 71 sounds at 494 Hz, above half the sample rate, 400 Hz"),
    ],
)
def test_senseless_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Recipe.from_options(options)
    assert message in str(error.value)


COMMAND = ["--height", "4", "--width", "4", "--duration", "0.05"]


def test_the_command_makes_the_dataset_under_its_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--root", str(tmp_path), "--size", "12", "--vary", "note_number=40:52:4", "--fix", "log10_decay_time=-1"]
    arguments += ["--test-fraction", "0.25", "--envelopes", "temporal_envelope", "--seed", "4", *COMMAND]
    assert main(arguments) == 0
    directory = tmp_path / "vimh-4x4x2_8000Hz_0p05s_12dss_simple_1p"
    assert capsys.readouterr().out == f"{directory}: 12 samples\n"
    dataset = open_dataset(directory)
    assert (len(dataset.train), len(dataset.test)) == (9, 3)
    assert dataset.info.channel_labels == ("R", "R_temporal_envelope")
    assert dataset.info.extras["generator"]["fixed"]["log10_decay_time"] == -1
    assert main(arguments) == 0
    assert "already there" in capsys.readouterr().out


def test_the_command_of_a_recipe_makes_its_dataset(tmp_path: Path) -> None:
    recipe = Recipe.from_options(
        TINY | {"vary": {"log10_decay_time": {"min": -2, "max": 0, "step": 0.5}}, "noise": 0.5, "envelopes": [], "seed": 9}
    )
    words = shlex.split(recipe.command(tmp_path / "set"))
    assert words[:3] == ["python", "-m", "lhtx.data.generate"]
    assert main(words[3:]) == 0
    assert generate(recipe, tmp_path / "set") is False


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--vary", "pitch"], 2, "error: vary: unknown parameter 'pitch'"),
        (["--vary", "note_number=1"], 2, "--vary note_number=1: expected NAME, NAME=MIN:MAX or NAME=MIN:MAX:STEP"),
        (["--vary", "note_number=1:x"], 2, "'x' is no number"),
        (["--fix", "note_velocity"], 2, "--fix note_velocity: '' is no number"),
        (["--output", "{there}"], 2, "no VIMH dataset"),
    ],
)
def test_a_bad_command_says_what_is_wrong(tmp_path: Path, capsys, arguments, status: int, message: str) -> None:
    arguments = [argument.format(there=tmp_path) for argument in arguments]
    assert main(["--root", str(tmp_path), *arguments, *COMMAND]) == status
    assert message in capsys.readouterr().err
    assert list(tmp_path.glob("vimh*")) == []


def test_two_commands_at_once_make_one_dataset(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lhtx.data.generate", "--output", str(tmp_path / "made"), "--size", "2000", *COMMAND]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=240)[0] for process in processes)
    assert said == [f"{tmp_path / 'made'}: 2000 samples\n", f"{tmp_path / 'made'}: 2000 samples, already there\n"]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".made.lock", "made"]


def test_help_names_parameters_and_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in SYNTH_PARAMETERS)
    assert "--grid --vary note_velocity=40:120:40 --vary log10_decay_time" in text


def test_a_killed_generator_leaves_no_half_dataset_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lhtx.data.generate", "--output", str(tmp_path / "set"), "--size", "10000000"]
    with subprocess.Popen([*command, *COMMAND]) as process:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob(".set.partial-*/train")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "set").exists()
    assert len(list(tmp_path.glob(".set.partial-*"))) == 1
    assert main([*command[3:5], "--size", "5", *COMMAND]) == 0
    assert len(open_dataset(tmp_path / "set").train) == 4
    assert list(tmp_path.glob(".set.partial-*")) == []
