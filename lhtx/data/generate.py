"""Generate a VIMH dataset of synthesised notes: `python -m lhtx.data.generate`. The command line over `lhtx.data.recipe`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lhtx.data.recipe import FIXED, SYNTH_PARAMETERS, Recipe, generate
from lhtx.data.synth import ENVELOPES
from lhtx.errors import ConfigError, DatasetError

_PARAMETERS = "\n".join(
    f"  {name:17} {p.description}\n{'':20}varies over {p.minimum:g}:{p.maximum:g}:{p.step:g}, else fixed at {FIXED[name]:g}"
    for name, p in SYNTH_PARAMETERS.items()
)
_EXAMPLES = """examples:
  4,000 samples, two heads of 24 classes each:
    python -m lhtx.data.generate --size 4000 --seed 1 --vary note_number --vary log10_decay_time
  every combination of 3 velocities and 24 decay times once, 72 samples:
    python -m lhtx.data.generate --grid --vary note_velocity=40:120:40 --vary log10_decay_time"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 made or already there, 2 something for the user to put right."""
    options = _parser().parse_args(arguments)
    try:
        recipe = _recipe(options)
        directory = options.output or options.root / recipe.name
        made = generate(recipe, directory)
    except (ConfigError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{directory}: {recipe.samples} samples" + ("" if made else ", already there"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lhtx.data.generate",
        description="Generate a VIMH dataset: spectrogram images of decaying sawtooth notes, labelled with the parameters\n"
        "that vary. The same options give the same bytes; an interrupted run leaves no half dataset.",
        epilog=f"parameters:\n{_PARAMETERS}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=Path, default=Path("data"), metavar="DIR", help="where the dataset's directory goes (data)")
    add("--output", type=Path, metavar="DIR", help="the dataset's directory itself, instead of a named one in --root")
    add("--vary", action="append", metavar="NAME[=MIN:MAX[:STEP]]", help="a parameter that varies; may be repeated")
    add("--fix", action="append", default=[], metavar="NAME=VALUE", help="the value of one that does not; may be repeated")
    add("--size", type=int, metavar="N", help="draw N samples at random (256)")
    add("--grid", action="store_true", help="instead, take every combination of steps once")
    add("--seed", type=int, default=Recipe.seed, help=f"of the draw, the noise and the test samples ({Recipe.seed})")
    add("--test-fraction", type=float, default=Recipe.test_fraction, metavar="F", help="share of the test file (0.2)")
    add("--height", type=int, default=Recipe.height, help=f"frequency bands ({Recipe.height})")
    add("--width", type=int, default=Recipe.width, help=f"time frames ({Recipe.width})")
    add("--sample-rate", type=int, default=Recipe.sample_rate, metavar="HZ", help=f"of the sound ({Recipe.sample_rate})")
    add("--duration", type=float, default=Recipe.duration, metavar="SECONDS", help=f"of a note ({Recipe.duration:g})")
    add(
        "--envelopes",
        default=",".join(ENVELOPES),
        metavar="KINDS",
        help=f"derived channels, separated by commas, or none ({','.join(ENVELOPES)})",
    )
    add("--noise", type=float, default=Recipe.noise, metavar="SIGMA", help="white noise added to the sound; 1 = full scale (0)")
    return parser


def _recipe(options: argparse.Namespace) -> Recipe:
    plain = ("size", "grid", "seed", "test_fraction", "height", "width", "sample_rate", "duration", "noise")
    values = {option: getattr(options, option) for option in plain}
    values["envelopes"] = () if options.envelopes == "none" else tuple(options.envelopes.split(","))
    values["fixed"] = dict(_fixed(text) for text in options.fix)
    if options.vary:
        values["vary"] = dict(_varied(text) for text in options.vary)
    return Recipe.from_options(values)


def _varied(text: str) -> tuple[str, dict[str, float] | None]:
    name, given, numbers = text.partition("=")
    if not given:
        return name, None
    parts = numbers.split(":")
    if len(parts) not in (2, 3):
        raise ConfigError(f"--vary {text}: expected NAME, NAME=MIN:MAX or NAME=MIN:MAX:STEP")
    return name, dict(zip(("min", "max", "step"), (_float(part, f"--vary {text}") for part in parts), strict=False))


def _fixed(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    return name, _float(number, f"--fix {text}")


def _float(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{where}: {text!r} is no number") from None


if __name__ == "__main__":
    sys.exit(main())
