"""The sound and the picture, against values worked out by hand."""

import numpy as np
import pytest

from lhtx.data.synth import Spectrogram, note_frequency, simple_synth, spectral_envelope, temporal_envelope

RATE = 8000


@pytest.mark.parametrize(("note", "hertz"), [(69, 440.0), (81, 880.0), (57, 220.0), (60, 261.6255653)])
def test_note_frequency(note: int, hertz: float) -> None:
    assert note_frequency(np.array(note)) == pytest.approx(hertz, rel=1e-9)


def test_the_sawtooth_starts_at_zero_rises_and_falls_back_in_mid_period() -> None:
    note = 69 + 12 * np.log2(RATE / 9 / 440)  # 9 samples a period
    sound = simple_synth(np.array([note]), np.array([127.0]), np.array([9.0]), RATE, 9)[0]
    assert 9 * sound == pytest.approx([0, 2, 4, 6, 8, -8, -6, -4, -2], abs=1e-6)


def test_velocity_scales_and_decay_falls_by_e() -> None:
    arguments = np.array([69.0, 69.0]), np.array([127.0, 63.5]), np.array([-1.0, -1.0])
    loud, soft = simple_synth(*arguments, RATE, RATE)
    assert soft == pytest.approx(loud / 2)
    steady = simple_synth(*(a[:1] for a in arguments[:2]), np.array([9.0]), RATE, RATE)[0]
    late = 800  # samples: 0.1 s, one time constant
    assert loud[late:] == pytest.approx(steady[late:] * np.exp(-np.arange(late, RATE) / 800), abs=1e-6)


def _picture(sound: np.ndarray, **changes) -> np.ndarray:
    return Spectrogram(RATE, RATE, 32, 32, **changes)(sound[None])[0]


def _sine(hertz: float, amplitude: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)


def test_a_full_scale_sine_is_at_the_top_of_the_range_in_its_band_and_nowhere_else() -> None:
    low, high = 2595 * np.log10(1 + np.array([40, 3600]) / 700)
    centre = 700 * (10 ** (np.linspace(low, high, 34)[21] / 2595) - 1)  # of band 20, low bands first
    image = _picture(_sine(centre))
    steady = image[:, :30]
    assert (steady.argmax(axis=0) == 20).all()
    assert (steady[20] >= 254).all()
    assert steady[[5, 30]].max() < 60


def test_half_the_amplitude_is_six_decibels_less() -> None:
    loud, soft = (_picture(_sine(1000, amplitude)).astype(int)[:, 5] for amplitude in (0.5, 0.25))
    band = loud.argmax()
    assert loud[band] - soft[band] == pytest.approx(20 * np.log10(2) / 80 * 255, abs=1)


def test_the_decay_is_a_straight_line_in_decibels() -> None:
    time = np.arange(RATE) / RATE
    image = _picture(_sine(1000, 0.9) * np.exp(-time / 0.2)).astype(float)
    row = image[image.sum(axis=1).argmax(), :20]
    per_frame = 20 * np.log10(np.e) * (250 / RATE) / 0.2 / 80 * 255
    assert -np.diff(row) == pytest.approx(per_frame, abs=1.01)
    assert row[0] - row[19] == pytest.approx(19 * per_frame, abs=1.01)


def test_silence_is_zero() -> None:
    assert not _picture(np.zeros(RATE)).any()


def test_the_window_grows_until_every_band_has_a_bin() -> None:
    assert Spectrogram(RATE, RATE, 32, 32).n_fft == 512
    tall = Spectrogram(RATE, RATE, 256, 4)
    assert tall.n_fft > 512
    assert tall(_sine(1000)[None]).shape == (1, 256, 4)


def test_envelopes_are_means_repeated_over_the_other_axis() -> None:
    images = np.array([[[0, 10, 20], [2, 30, 41]]], dtype=np.uint8)
    assert temporal_envelope(images).tolist() == [[[1, 20, 30], [1, 20, 30]]]  # 30.5 to the even neighbour
    assert spectral_envelope(images).tolist() == [[[10, 10, 10], [24, 24, 24]]]
    assert temporal_envelope(images).dtype == np.uint8
