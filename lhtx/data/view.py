"""Look at a VIMH dataset: `python -m lhtx.data.view [DIRECTORY]` draws some of its samples and their parameters as a PNG.

Shows what is stored, in stored order and orientation: it must not normalise, augment or choose what to hide.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from math import ceil, log, sqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lhtx.data import channels
from lhtx.data.dataset import open_dataset
from lhtx.data.info import INFO_FILE, DatasetInfo
from lhtx.data.parameters import Parameter, class_index, class_values, dequantise
from lhtx.data.records import Samples
from lhtx.errors import ConfigError, DatasetError
from lhtx.files import check_file, ensure_directory, write_atomically

SIDE = 112
"""Pixels that the longer side of a small image is brought to, or the next multiple of its own size below."""
MOST = 10_000
"""Samples on one sheet, at most."""
_MARGIN, _GAP, _BETWEEN = 24, 18, 3
_TITLE, _TEXT = ImageFont.load_default(18), ImageFont.load_default(12)
_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 32), (112, 112, 124)
_GREY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
_ANCHORS = np.array([(8, 6, 24), (66, 16, 102), (150, 40, 108), (228, 88, 64), (252, 176, 68), (252, 250, 196)])
_HEAT = np.stack([np.interp(np.linspace(0, 5, 256), range(6), column) for column in _ANCHORS.T], axis=1).astype(np.uint8)
"""Black over purple and orange to pale yellow, evenly brighter: for images in dB, whose differences lie in the dark."""


def contact_sheet(
    directory: Path, split: str = "train", count: int = 25, channel: Sequence[str] | None = None, seed: int = 0
) -> Image.Image:
    """Some samples of a dataset, side by side, each with its index and its parameters in their own units under it.

    Args:
        directory: the dataset, binary or pickled.
        split: its file, `train` or `test`.
        count: how many, drawn at random without repetition and shown in stored order; all of them where there are fewer.
        channel: names or shell patterns of channels; None is all. Channels stand side by side, but R, G, B make one picture.
        seed: of the draw.

    Raises:
        ConfigError: a count or a seed that is none, a pattern that matches nothing, a split that the dataset has not.
        DatasetError: the dataset cannot be read, or the file is empty.
    """
    if not 1 <= count <= MOST:
        raise ConfigError(f"--count is {count}; expected 1 to {MOST:,} samples")
    if seed < 0:
        raise ConfigError(f"--seed is {seed}; expected 0 or more")
    dataset = open_dataset(directory, test=split == "test")
    samples = dataset.test if split == "test" else dataset.train
    if samples is None:
        raise ConfigError(f"{directory} has no test file; expected --split train")
    if len(samples) == 0:
        raise DatasetError(f"{samples.file}: holds no samples, so there is nothing to show")
    info = dataset.info
    chosen = np.sort(np.random.default_rng(seed).choice(len(samples), min(count, len(samples)), replace=False))
    selected = channels.select(info.channel_labels, channel)
    labels = [info.channel_labels[number] for number in selected]
    pictures = [_picture(image, labels, samples.decibels is not None) for image in samples.images[chosen][:, selected]]
    captions = _captions(samples, info, chosen)
    head = [
        f"{samples.file.name}: {len(chosen)} of {len(samples):,} samples (seed {seed}), drawn as stored, row 0 at the top",
        f"{info.height}x{info.width} pixels, {'channel' if len(labels) == 1 else 'channels'} {', '.join(labels)}",
    ]
    for name in info.varying:
        parameter = info.parameters[name]
        head.append(f"{name}: {parameter.minimum:g} … {parameter.maximum:g}, {parameter.classes} classes")
    return _sheet(info.name, head, pictures, captions)


def _picture(image: np.ndarray, labels: list[str], decibels: bool) -> Image.Image:
    """The channels (C, H, W) of a sample, side by side and enlarged; three that are R, G and B as a colour picture."""
    tiles = [np.moveaxis(image, 0, -1)] if labels == ["R", "G", "B"] else list((_HEAT if decibels else _GREY)[image])
    height, width = image.shape[1:]
    scale = SIDE // max(height, width) or SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    row = Image.new("RGB", (len(tiles) * (size[0] + _BETWEEN) - _BETWEEN, size[1]), _PAPER)
    for place, tile in enumerate(tiles):
        row.paste(Image.fromarray(np.ascontiguousarray(tile)).resize(size, resampling), (place * (size[0] + _BETWEEN), 0))
    return row


def _captions(samples: Samples, info: DatasetInfo, chosen: np.ndarray) -> list[list[str]]:
    ids = [list(info.parameters).index(name) for name in info.varying]
    stored = samples.labels(ids)[chosen]
    columns = {name: _values(stored[:, place], info.parameters[name]) for place, name in enumerate(info.varying)}
    return [
        [f"#{index}", *(f"{name} {values[row]:.4g}" for name, values in columns.items())] for row, index in enumerate(chosen)
    ]


def _values(stored: np.ndarray, parameter: Parameter) -> np.ndarray:
    """Bytes → parameter units: those of the class where there is a step, as a byte holds its value only nearly."""
    limits = (parameter.minimum, parameter.maximum)
    values = dequantise(stored, *limits)
    if parameter.step > 0:
        values = class_values(*limits, parameter.step)[class_index(values, *limits, parameter.step)]
    return values.round(10) + 0.0  # so that neither 1e-17 nor a negative zero is shown for zero


def _sheet(title: str, head: list[str], pictures: list[Image.Image], captions: list[list[str]]) -> Image.Image:
    line = _height(_TEXT)
    width = max(pictures[0].width, *(ceil(_TEXT.getlength(text)) for lines in captions for text in lines))
    height = pictures[0].height + 4 + line * len(captions[0])
    columns = _columns(len(pictures), (height + _GAP) / (width + _GAP))
    rows = ceil(len(pictures) / columns)
    top = _MARGIN + _height(_TITLE) + line * len(head) + _GAP
    words = max(ceil(_TITLE.getlength(title)), *(ceil(_TEXT.getlength(text)) for text in head))
    size = (max(columns * (width + _GAP) - _GAP, words) + 2 * _MARGIN, top + rows * (height + _GAP) - _GAP + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=_TITLE)
    for place, text in enumerate(head):
        draw.text((_MARGIN, _MARGIN + _height(_TITLE) + place * line), text, fill=_FAINT, font=_TEXT)
    for place, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        x, y = _MARGIN + place % columns * (width + _GAP), top + place // columns * (height + _GAP)
        sheet.paste(picture, (x, y))
        for number, text in enumerate(lines):
            where = (x, y + picture.height + 4 + number * line)
            draw.text(where, text, fill=_INK if number else _FAINT, font=_TEXT)
    return sheet


def _columns(pictures: int, ratio: float) -> int:
    """How many columns make a sheet of about 7:5 without many empty places; `ratio` is the height of one over its width."""
    wanted = max(1.0, sqrt(1.4 * pictures * ratio))

    def fault(columns: int) -> float:
        return abs(log(columns / wanted)) + (ceil(pictures / columns) * columns - pictures) / pictures

    return min(range(1, pictures + 1), key=fault)


def _height(font: ImageFont.FreeTypeFont) -> int:
    return round(font.size * 1.35)


def newest(root: Path) -> Path:
    """The VIMH dataset under `root` that was made last. Raises ConfigError where there is none."""
    found = sorted(root.glob(f"*/{INFO_FILE}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise ConfigError(
            f"which dataset? There is none under {root.absolute()}; expected a directory with a {INFO_FILE} "
            "(python -m lhtx.data.generate makes one)"
        )
    return found[-1].parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 drawn, 2 something for the user to put right."""
    parser = argparse.ArgumentParser(prog="python -m lhtx.data.view", description="A contact sheet of a VIMH dataset, as PNG.")
    parser.add_argument("directory", nargs="?", type=Path, help="the dataset (the newest one under data/)")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="the dataset's file (train)")
    parser.add_argument("--count", type=int, default=25, metavar="N", help="samples, drawn at random (25)")
    parser.add_argument(
        "--channel", action="append", metavar="NAME", help="a channel or a shell pattern; may be repeated (all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="where to (logs/view/DATASET_SPLIT.png)")
    options = parser.parse_args(arguments)
    try:
        directory = options.directory or newest(Path("data"))
        file = options.out or Path("logs") / "view" / f"{directory.resolve().name}_{options.split}.png"
        if file.suffix.lower() != ".png":
            raise ConfigError(f"--out is {file}; expected a name that ends in .png")
        check_file(file, "--out")
        sheet = contact_sheet(directory, options.split, options.count, options.channel, options.seed)
    except (ConfigError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    write_atomically(ensure_directory(file.parent, "--out") / file.name, content.getvalue())
    print(f"{file}: {sheet.width} × {sheet.height} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
