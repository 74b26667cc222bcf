"""A VIMH dataset packed by hand, byte by byte, so that the reader is not tested against our own writer."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HEIGHT, WIDTH, CHANNELS = 4, 5, 3
Made = tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]


def _samples(count: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "images": generator.integers(0, 256, (count, CHANNELS, HEIGHT, WIDTH), dtype=np.uint8),
        "values": generator.integers(0, 256, (count, 2), dtype=np.uint8),
        "decibels": np.sort(generator.normal(-40, 10, (count, 2)).astype(np.float32), axis=1),
    }


def _record(version: str, image: np.ndarray, values: np.ndarray, decibels: np.ndarray) -> bytes:
    header = struct.pack("<HHH", HEIGHT, WIDTH, CHANNELS)
    if version == "2.1":
        header += struct.pack("<ff", *decibels)
    return header + struct.pack("BBBBB", 2, 0, values[0], 1, values[1]) + image.tobytes()


@pytest.fixture
def hand_made(tmp_path: Path) -> Callable[..., Made]:
    """Returns a function (version, **changed JSON keys) → (directory, train samples, test samples): 7 and 3 samples of
    4x5x3 with the parameters `pitch` (0 … 10, step 2) and `level` (−1 … 1, no step)."""

    def make(version: str = "2.1", name: str = "by_hand", binary: bool = True, **changes: Any) -> Made:
        directory = tmp_path / name
        directory.mkdir()
        parts = {"train": _samples(7, 0), "test": _samples(3, 1)}
        document = {
            "format": "VIMH",
            "version": version,
            "dataset_name": "by hand",
            "height": HEIGHT,
            "width": WIDTH,
            "channels": CHANNELS,
            "varying_parameters": 2,
            "parameter_names": ["pitch", "level"],
            "parameter_mappings": {
                "pitch": {"min": 0, "max": 10, "step": 2, "description": "how high"},
                "level": {"min": -1.0, "max": 1.0, "step": 0},
            },
            "train_samples": 7,
            "test_samples": 3,
            "total_samples": 10,
            "label_encoding": {"metadata_bytes": {"2.0": 6, "2.1": 14}.get(version)},
        }
        document = {key: value for key, value in (document | changes).items() if value is not None}
        (directory / "vimh_dataset_info.json").write_text(json.dumps(document))
        if binary:
            for part, samples in parts.items():
                rows = zip(samples["images"], samples["values"], samples["decibels"], strict=True)
                (directory / part).write_bytes(b"".join(_record(version, *row) for row in rows))
        return directory, parts["train"], parts["test"]

    return make
