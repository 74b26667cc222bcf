"""From a recipe (which parameters vary, how many samples, which seed) to a VIMH dataset of SimpleSynth notes.

The same recipe gives the same bytes. Knows no command line.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np

from lhtx.data.channels import derived_label
from lhtx.data.info import INFO_FILE, DatasetInfo, check_agreement, read_info
from lhtx.data.naming import dataset_name
from lhtx.data.parameters import LEVELS, Parameter, class_count, class_values, quantise
from lhtx.data.synth import ENVELOPES, Spectrogram, note_frequency, simple_synth
from lhtx.data.writer import Chunk, dataset_lock, write_dataset
from lhtx.errors import ConfigError, DatasetError
from lhtx.files import ensure_directory

SYNTH_PARAMETERS: dict[str, Parameter] = {
    "note_number": Parameter(48, 71, 1, "MIDI note number; 69 is A4, 440 Hz"),
    "note_velocity": Parameter(40, 120, 40, "MIDI velocity; the amplitude is velocity/127"),
    "log10_decay_time": Parameter(-2.0, 0.3, 0.1, "log10 of the time in seconds in which the sound decays to 1/e"),
}
"""The parameters of SimpleSynth with the ranges that they take where a recipe names no others."""

LIMITS = {"note_number": (0, 127), "note_velocity": (1, 127), "log10_decay_time": (-4, 2)}
FIXED = {"note_number": 60.0, "note_velocity": 100.0, "log10_decay_time": -0.5}
"""The value of a parameter that does not vary, where a recipe names no other."""

CHUNK = 256  # samples made at a time; part of what fixes the bytes, because the noise is drawn chunk by chunk


@dataclass(frozen=True)
class Recipe:
    """What to generate. `vary` and `fixed` name parameters of SimpleSynth; what neither names keeps its `FIXED` value.

    Either `size` samples are drawn at random (each parameter uniformly among its steps, or among its 256 stored values
    where it has no step), or `grid` enumerates every combination once. `test_fraction` of them, chosen by the seed, go
    to the test file. `noise` is the standard deviation of white noise that is added to the sound, whose full scale is 1.
    `envelopes` are derived channels, of `temporal_envelope` and `spectral_envelope`. Duration in seconds, rate in Hz.
    """

    vary: Mapping[str, Parameter] = field(
        default_factory=lambda: {name: SYNTH_PARAMETERS[name] for name in ("note_number", "log10_decay_time")}
    )
    fixed: Mapping[str, float] = field(default_factory=dict)
    size: int | None = None
    grid: bool = False
    seed: int = 0
    test_fraction: float = 0.2
    height: int = 32
    width: int = 32
    sample_rate: int = 8000
    duration: float = 1.0
    envelopes: Sequence[str] = tuple(ENVELOPES)
    noise: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Recipe":
        """A recipe from plain values, as a config holds them; `vary` maps a name to {min, max, step} or to null.

        Raises `ConfigError` for an unknown option, naming the near and the accepted ones, and for senseless values.
        """
        known = [option.name for option in fields(cls)]
        for option in options:
            if option not in known:
                raise ConfigError(f"unknown generator option {option!r}{_near(option, known)}")
        values = dict(options)
        if "vary" in values:
            if not isinstance(values["vary"], Mapping):
                raise ConfigError(f"vary is {values['vary']!r}; expected a mapping, parameter → {{min, max, step}} or null")
            values["vary"] = {name: _range(name, given) for name, given in values["vary"].items()}
        for option, kind in (("fixed", dict), ("envelopes", tuple)):
            if option in values:
                values[option] = kind(values[option])
        return cls(**values)

    @property
    def samples(self) -> int:
        """How many samples the recipe makes, in both files together."""
        if self.grid:
            return prod(parameter.classes for parameter in self.vary.values())
        return 256 if self.size is None else self.size

    @property
    def channel_labels(self) -> tuple[str, ...]:
        """The spectrogram is `R`; its envelopes follow."""
        return ("R", *(derived_label("R", kind) for kind in self.envelopes))

    @property
    def name(self) -> str:
        """The directory name that tells this recipe's shape."""
        channels = len(self.channel_labels)
        return dataset_name(
            self.height, self.width, channels, self.sample_rate, self.duration, self.samples, "simple", len(self.vary)
        )

    def as_json(self) -> dict[str, Any]:
        """The recipe as plain values, equal for equal recipes; `from_options` reads it back."""
        ranges = {
            name: {"min": parameter.minimum, "max": parameter.maximum, "step": parameter.step}
            for name, parameter in self.vary.items()
        }
        fixed = {name: self.fixed_value(name) for name in SYNTH_PARAMETERS if name not in self.vary}
        size = None if self.grid else self.samples
        return asdict(self) | {"vary": ranges, "fixed": fixed, "envelopes": list(self.envelopes), "size": size}

    def fixed_value(self, name: str) -> float:
        """The value of a parameter that does not vary."""
        return float(self.fixed.get(name, FIXED[name]))

    def command(self, directory: str | Path) -> str:
        """The command that makes this recipe's dataset in `directory`."""
        words = ["python -m lhtx.data.generate", f"--output {directory}"]
        words += [f"--vary {name}={p.minimum:g}:{p.maximum:g}:{p.step:g}" for name, p in self.vary.items()]
        words += [f"--fix {name}={value:g}" for name, value in self.fixed.items()]
        words += ["--grid"] if self.grid else [f"--size {self.samples}"]
        defaults = Recipe()
        words += [
            f"--{option.replace('_', '-')} {getattr(self, option)}"
            for option in ("seed", "test_fraction", "height", "width", "sample_rate", "duration", "noise")
            if getattr(self, option) != getattr(defaults, option)
        ]
        if tuple(self.envelopes) != tuple(defaults.envelopes):
            words.append(f"--envelopes {','.join(self.envelopes) or 'none'}")
        return " ".join(words)


def generate(recipe: Recipe, directory: Path) -> bool:
    """Make the dataset of `recipe` in `directory`, completely or not at all. Returns False if it was there already.

    Safe to call from several processes at once: one makes it, the others wait. Raises `DatasetError` where `directory`
    holds anything else than this recipe's dataset.
    """
    directory = Path(directory)
    if directory.exists():  # then it is complete; no lock, so that a read-only place will do
        check_recipe(recipe, directory)
        return False
    ensure_directory(directory.parent, "the place of the dataset (data.data_dir, --root or --output)")
    with dataset_lock(directory):
        if directory.exists():  # another process made it while this one waited
            check_recipe(recipe, directory)
            return False
        info = _describe(recipe)
        check_agreement(directory, replace(info, total_samples=recipe.samples))  # before the work, not after it
        values, is_test = _draw(recipe)
        parts = [_chunks(recipe, values, np.flatnonzero(part)) for part in (~is_test, is_test)]
        write_dataset(directory, info, *parts)
    return True


def check_recipe(recipe: Recipe, directory: Path) -> None:
    """Raise `DatasetError` unless `directory` holds the dataset that `recipe` makes, telling what differs."""
    made_by = read_info(directory).extras.get("generator")
    if made_by is None:
        raise DatasetError(
            f"{directory} exists, but its {INFO_FILE} tells of no generator recipe: it was made elsewhere; "
            "choose another directory, or use it without a recipe"
        )
    wanted = recipe.as_json()
    differ = [key for key in {**wanted, **made_by} if wanted.get(key) != made_by.get(key)]
    if differ:
        changes = "; ".join(f"{key} is {made_by.get(key)!r} there, {wanted.get(key)!r} here" for key in differ)
        raise DatasetError(f"{directory} exists and was made by another recipe: {changes}. Delete it or name another")


def _draw(recipe: Recipe) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every parameter's value for every sample, (N,) each, and which samples belong to the test file, (N,) bool."""
    centres = {name: class_values(p.minimum, p.maximum, p.step) for name, p in recipe.vary.items()}
    sizes = [len(values) for values in centres.values()]
    if recipe.grid:
        indices = np.indices(sizes).reshape(len(sizes), -1)
    else:
        generator = np.random.default_rng([recipe.seed, 0])
        indices = np.stack([generator.integers(size, size=recipe.samples) for size in sizes])
    values = {name: values[index] for (name, values), index in zip(centres.items(), indices, strict=True)}
    values |= {n: np.full(recipe.samples, recipe.fixed_value(n)) for n in SYNTH_PARAMETERS if n not in recipe.vary}
    is_test = np.zeros(recipe.samples, dtype=bool)
    order = np.random.default_rng([recipe.seed, 1]).permutation(recipe.samples)
    is_test[order[: round(recipe.test_fraction * recipe.samples)]] = True
    return values, is_test


def _chunks(recipe: Recipe, values: dict[str, np.ndarray], chosen: np.ndarray) -> Iterator[Chunk]:
    spectrogram = _spectrogram(recipe)
    for start in range(0, len(chosen), CHUNK):
        members = chosen[start : start + CHUNK]
        part = {name: column[members] for name, column in values.items()}
        sound = simple_synth(**part, sample_rate=recipe.sample_rate, samples=spectrogram.samples)
        if recipe.noise:
            generator = np.random.default_rng([recipe.seed, 2, int(members[0])])
            sound += recipe.noise * generator.standard_normal(sound.shape)
        image = spectrogram(sound)
        images = np.stack([image, *(ENVELOPES[kind](image) for kind in recipe.envelopes)], axis=1)
        labels = np.stack([quantise(part[name], p.minimum, p.maximum) for name, p in recipe.vary.items()], axis=1)
        decibels = np.tile([spectrogram.decibel_min, spectrogram.decibel_max], (len(members), 1))
        yield Chunk(images, labels, decibels)


def _spectrogram(recipe: Recipe) -> Spectrogram:
    return Spectrogram(recipe.sample_rate, round(recipe.duration * recipe.sample_rate), recipe.height, recipe.width)


def _describe(recipe: Recipe) -> DatasetInfo:
    spectrogram = _spectrogram(recipe)
    described = {name: SYNTH_PARAMETERS[name].description for name in SYNTH_PARAMETERS}
    parameters = {
        name: Parameter(p.minimum, p.maximum, p.step, described[name], p.scale, p.type) for name, p in recipe.vary.items()
    }
    fixed = {
        name: {"value": recipe.fixed_value(name), "description": described[name]}
        for name in SYNTH_PARAMETERS
        if name not in recipe.vary
    }
    return DatasetInfo(
        name=recipe.name,
        version="2.1",
        height=recipe.height,
        width=recipe.width,
        channels=len(recipe.channel_labels),
        channel_labels=recipe.channel_labels,
        parameters=parameters,
        varying=tuple(parameters),
        fixed_parameters=fixed,
        extras={
            "sample_rate": recipe.sample_rate,
            "duration": recipe.duration,
            "synth_type": "simple",
            "spectrogram_config": {
                "sample_rate": recipe.sample_rate,
                "type": "mel",
                "n_fft": spectrogram.n_fft,
                "hop_length": spectrogram.hop,
                "window_type": "hann",
                "n_bins": recipe.height,
                "spec_min": spectrogram.decibel_min,
                "spec_max": spectrogram.decibel_max,
            },
            "mel_config": {
                "freq_min": spectrogram.frequency_min,
                "freq_max_ratio": spectrogram.frequency_max_ratio,
            },
            "pre_emphasis_coefficient": 0.0,
            "generator": recipe.as_json(),
        },
    )


def _range(name: str, given: object) -> Parameter:
    if given is None:
        if name not in SYNTH_PARAMETERS:
            raise ConfigError(f"vary: unknown parameter {name!r}{_near(name, list(SYNTH_PARAMETERS))}")
        return SYNTH_PARAMETERS[name]
    if isinstance(given, Parameter):
        return given
    if isinstance(given, Mapping) and (unknown := [key for key in given if key not in ("min", "max", "step")]):
        raise ConfigError(f"vary: {name!r} has unknown {', '.join(map(str, unknown))}; accepted are min, max and step")
    try:
        return Parameter.parse(name, given, "vary")
    except DatasetError as error:
        raise ConfigError(str(error)) from error


def _check(recipe: Recipe) -> None:
    for option in ("vary", "fixed"):
        for name in getattr(recipe, option):
            if name not in SYNTH_PARAMETERS:
                raise ConfigError(f"{option}: unknown parameter {name!r}{_near(name, list(SYNTH_PARAMETERS))}")
    if not recipe.vary:
        raise ConfigError(f"vary names no parameter; choose among {', '.join(SYNTH_PARAMETERS)}")
    if both := [name for name in recipe.vary if name in recipe.fixed]:
        raise ConfigError(f"{', '.join(both)} cannot both vary and be fixed")
    for name, parameter in recipe.vary.items():
        _check_range(name, parameter)
    for name, value in recipe.fixed.items():
        _check_within(name, value)
    if recipe.grid and recipe.size is not None:
        raise ConfigError(f"grid enumerates {recipe.samples} samples, so size={recipe.size} cannot be given too")
    for option, least in (("size", 1), ("height", 1), ("width", 1), ("sample_rate", 100), ("seed", 0)):
        value = getattr(recipe, option)
        optional = option == "size" and value is None
        if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"{option} is {value!r}; expected a whole number of at least {least}")
    for option, high in (("test_fraction", 1.0), ("noise", float("inf"))):
        value = getattr(recipe, option)
        if not _is_number(value) or not 0 <= value < high:
            raise ConfigError(f"{option} is {value!r}; expected a number, at least 0" + (" and below 1" if high == 1 else ""))
    if not _is_number(recipe.duration) or recipe.duration * recipe.sample_rate < recipe.width:
        raise ConfigError(
            f"duration is {recipe.duration!r} s; expected at least one sample for each of the {recipe.width} frames, "
            f"{recipe.width / recipe.sample_rate:g} s at {recipe.sample_rate} Hz"
        )
    for kind in recipe.envelopes:
        if kind not in ENVELOPES:
            raise ConfigError(f"envelopes: unknown channel {kind!r}{_near(kind, list(ENVELOPES))}")
    if len(set(recipe.envelopes)) != len(recipe.envelopes):
        raise ConfigError(f"envelopes names a channel twice: {', '.join(recipe.envelopes)}")
    highest = recipe.vary["note_number"].maximum if "note_number" in recipe.vary else recipe.fixed_value("note_number")
    if note_frequency(highest) >= recipe.sample_rate / 2:
        raise ConfigError(
            f"note_number {highest:g} sounds at {note_frequency(highest):.0f} Hz, above half the sample rate, "
            f"{recipe.sample_rate / 2:g} Hz; lower the note or raise sample_rate"
        )


def _check_range(name: str, parameter: Parameter) -> None:
    low, high, step = parameter.minimum, parameter.maximum, parameter.step
    if not low < high:
        raise ConfigError(f"vary: {name!r} has min {low:g} and max {high:g}; expected min < max (use fixed for one value)")
    for value in (low, high):
        _check_within(name, value)
    if step <= 0:
        return
    for end, value in (("min", low), ("max", high)):
        if abs(value / step - round(value / step)) > 1e-6:
            raise ConfigError(
                f"vary: {name!r} has {end} {value:g}, no multiple of its step {step:g}, but classes lie on multiples; "
                f"{np.floor(value / step) * step:g} and {np.ceil(value / step) * step:g} are the nearest"
            )
    if class_count(low, high, step) > LEVELS + 1:
        raise ConfigError(
            f"vary: {name!r} has {class_count(low, high, step)} steps from {low:g} to {high:g}, but a byte stores the label: "
            f"at most {LEVELS + 1}; raise the step {step:g}"
        )


def _check_within(name: str, value: object) -> None:
    low, high = LIMITS[name]
    if not _is_number(value) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; expected a number from {low} to {high}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _near(name: object, known: Sequence[str]) -> str:
    near = get_close_matches(str(name), known, n=2)
    return (f"; did you mean {' or '.join(near)}?" if near else ";") + f" Accepted: {', '.join(known)}"
