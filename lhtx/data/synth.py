"""The sound and the picture of SimpleSynth: a decaying sawtooth and its log-magnitude spectrogram.

Pure functions over NumPy arrays, float64 throughout so that the same input gives the same bytes. Knows no file format.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


def note_frequency(note_number: np.ndarray) -> np.ndarray:
    """MIDI note number → frequency in Hz, 440·2^((n − 69)/12); any shape."""
    return 440.0 * 2.0 ** ((np.asarray(note_number, dtype=np.float64) - 69.0) / 12.0)


def simple_synth(
    note_number: np.ndarray, note_velocity: np.ndarray, log10_decay_time: np.ndarray, sample_rate: int, samples: int
) -> np.ndarray:
    """N notes of an exponentially decaying sawtooth: (N,) each of the three parameters → (N, samples) in [−1, 1].

    phase = f·t − 0.5 less its floor, s = 2·phase − 1 (0 at the start, rising), times exp(−t/τ) with τ = 10^log10_decay_time
    seconds, times velocity/127.
    """
    time = np.arange(samples) / sample_rate
    phase = note_frequency(note_number)[:, None] * time - 0.5
    phase -= np.floor(phase)
    decay = np.exp(-time / 10.0 ** np.asarray(log10_decay_time, dtype=np.float64)[:, None])
    return (2.0 * phase - 1.0) * decay * (np.asarray(note_velocity, dtype=np.float64)[:, None] / 127.0)


@dataclass(frozen=True)
class Spectrogram:
    """Sound → uint8 image (height = mel bands, low first; width = frames), in dB over [decibel_min, decibel_max].

    Hann window; frame i starts at i·samples/width and is padded with silence past the end. 0 dB is a sine of amplitude 1
    at the centre of a band. Bands are triangles spaced evenly in mel = 2595·log10(1 + f/700), from `frequency_min` to
    `frequency_max_ratio` of the Nyquist frequency; `n_fft` is 512, doubled until no band falls between two bins.
    """

    sample_rate: int
    samples: int
    height: int
    width: int
    decibel_min: float = -80.0
    decibel_max: float = 0.0
    frequency_min: float = 40.0
    frequency_max_ratio: float = 0.9

    @cached_property
    def _filters_and_length(self) -> tuple[np.ndarray, int]:
        n_fft = 512
        while not (filters := self._mel_filters(n_fft)).any(axis=0).all():
            n_fft *= 2
        return filters, n_fft

    @property
    def n_fft(self) -> int:
        """Samples in one analysis window."""
        return self._filters_and_length[1]

    @property
    def hop(self) -> int:
        """Samples between the starts of neighbouring frames."""
        return self.samples // self.width

    def _mel_filters(self, n_fft: int) -> np.ndarray:
        frequencies = np.fft.rfftfreq(n_fft, 1.0 / self.sample_rate)
        limits = np.array([self.frequency_min, self.frequency_max_ratio * self.sample_rate / 2])
        low, high = 2595.0 * np.log10(1.0 + limits / 700.0)
        edges = 700.0 * (10.0 ** (np.linspace(low, high, self.height + 2) / 2595.0) - 1.0)
        rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
        return np.maximum(0.0, np.minimum(rising, falling))  # (n_fft // 2 + 1, height)

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """(N, samples) → (N, height, width) uint8."""
        filters, n_fft = self._filters_and_length
        window = np.hanning(n_fft + 1)[:-1]
        padded = np.pad(sound, ((0, 0), (0, n_fft)))
        starts = np.arange(self.width)[:, None] * self.hop
        frames = padded[:, starts + np.arange(n_fft)] * window  # (N, width, n_fft)
        power = np.abs(np.fft.rfft(frames)) ** 2 @ filters / (window.sum() / 2.0) ** 2
        decibels = 10.0 * np.log10(np.maximum(power, 1e-20))
        scaled = (decibels - self.decibel_min) / (self.decibel_max - self.decibel_min)
        return np.rint(255.0 * np.clip(scaled, 0.0, 1.0)).astype(np.uint8).transpose(0, 2, 1)


def temporal_envelope(images: np.ndarray) -> np.ndarray:
    """(N, H, W) uint8 → the mean over frequency of every frame, repeated over the height: (N, H, W) uint8."""
    return _repeated_mean(images, axis=1)


def spectral_envelope(images: np.ndarray) -> np.ndarray:
    """(N, H, W) uint8 → the mean over time of every band, repeated over the width: (N, H, W) uint8."""
    return _repeated_mean(images, axis=2)


def _repeated_mean(images: np.ndarray, axis: int) -> np.ndarray:
    mean = np.rint(images.mean(axis=axis, keepdims=True, dtype=np.float64)).astype(np.uint8)
    return np.broadcast_to(mean, images.shape)


ENVELOPES = {"temporal_envelope": temporal_envelope, "spectral_envelope": spectral_envelope}
"""Derived channels by the kind that ends their label."""
