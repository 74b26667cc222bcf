"""`vimh_dataset_info.json`: what a dataset says of itself, checked against its directory's name and its data.

Reads and makes the JSON document; never opens the sample files.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lhtx.data.channels import default_labels
from lhtx.data.naming import parse_name
from lhtx.data.parameters import Parameter
from lhtx.errors import DatasetError

INFO_FILE = "vimh_dataset_info.json"
HEADER_BYTES = {"2.0": 6, "2.1": 14}
"""Version → bytes before the parameter count of a record."""
VARYING = "number of varying parameters"


@dataclass(frozen=True)
class DatasetInfo:
    """The description of a dataset.

    `parameters` holds the range of every labelled parameter, in the order of `parameter_names`, so that a parameter id is
    a position in it; `varying` names those that differ between samples: the heads. Sample counts are None where the JSON
    gives none. `extras` holds every other key as it stood (sample_rate, duration, spectrogram_config, …).
    """

    name: str
    version: str
    height: int
    width: int
    channels: int
    channel_labels: tuple[str, ...]
    parameters: dict[str, Parameter]
    varying: tuple[str, ...]
    train_samples: int | None = None
    test_samples: int | None = None
    total_samples: int | None = None
    layout: str = "CHW"
    fixed_parameters: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The JSON document that `parse` reads back."""
        counts = {"train_samples": self.train_samples, "test_samples": self.test_samples}
        counts |= {"total_samples": self.total_samples, "n_samples": self.total_samples}
        return {
            "format": "VIMH",
            "version": self.version,
            "dataset_name": self.name,
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
            "channel_labels": list(self.channel_labels),
            "image_size": f"{self.height}x{self.width}x{self.channels}",
            "varying_parameters": list(self.varying),
            "parameter_names": list(self.parameters),
            "parameter_mappings": {name: parameter.as_json() for name, parameter in self.parameters.items()},
            "fixed_parameters": self.fixed_parameters,
            **{key: count for key, count in counts.items() if count is not None},
            "label_encoding": label_encoding(self.version),
            **self.extras,
        }


@dataclass(frozen=True)
class DataFacts:
    """What the sample files themselves say; None for what is not known yet.

    `file` is where it was read, and `places` tells it more closely, for the quantities that have a place of their own.
    """

    file: str
    height: int | None = None
    width: int | None = None
    channels: int | None = None
    parameters: int | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    places: Mapping[str, str] = field(default_factory=dict)


def label_encoding(version: str) -> dict[str, Any]:
    """The JSON's description of a record of `version`."""
    decibels = " [spec_min] [spec_max]" if version == "2.1" else ""
    return {
        "format": f"[height] [width] [channels]{decibels} [N] [param1_id] [param1_val] …",
        "metadata_bytes": HEADER_BYTES[version],
        "N_range": [0, 255],
        "param_id_range": [0, 255],
        "param_val_range": [0, 255],
    }


def read_info(directory: Path) -> DatasetInfo:
    """Read a dataset's JSON. Raises `DatasetError` for a missing, unreadable or contradictory one, naming the key."""
    path = Path(directory) / INFO_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = "exists but holds no" if Path(directory).is_dir() else "does not exist, so there is no"
        raise DatasetError(f"{directory} {there} {INFO_FILE}: it is no VIMH dataset") from None
    except NotADirectoryError:
        raise DatasetError(f"{directory} is a file; expected the directory of a VIMH dataset, which holds {INFO_FILE}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable as JSON: {error}") from error
    return parse_info(document, path)


def parse_info(document: object, path: Path) -> DatasetInfo:
    """The JSON document as a `DatasetInfo`; `path` names the file in messages. Raises `DatasetError`."""
    if not isinstance(document, Mapping):
        raise DatasetError(f"{path}: holds a JSON {type(document).__name__}; expected an object")
    if document.get("format", "VIMH") != "VIMH":
        raise DatasetError(f"{path}: format is {document['format']!r}; expected 'VIMH'")
    height, width, channels = (_count(document, key, path, least=1) for key in ("height", "width", "channels"))
    if None in (height, width, channels):
        missing = [key for key in ("height", "width", "channels") if key not in document]
        raise DatasetError(f"{path}: {', '.join(missing)} missing; expected whole numbers")
    _check_image_size(document, (height, width, channels), path)
    parameters = _parameters(document, path)
    layout = document.get("layout", "CHW")
    if layout not in ("CHW", "HWC"):
        raise DatasetError(f"{path}: layout is {layout!r}; expected 'CHW' or 'HWC'")
    train, test, total = _sample_counts(document, path)
    return DatasetInfo(
        name=str(document.get("dataset_name") or path.parent.name),
        version=_version(document, path),
        height=height,
        width=width,
        channels=channels,
        channel_labels=_labels(document, channels, path),
        parameters=parameters,
        varying=_varying(document, parameters, path),
        train_samples=train,
        test_samples=test,
        total_samples=total,
        layout=layout,
        fixed_parameters=_object(document, "fixed_parameters", path),
        extras={key: value for key, value in document.items() if key not in _OWN_KEYS},
    )


_OWN_KEYS = frozenset(
    {
        *("format", "version", "dataset_name", "height", "width", "channels", "channel_labels", "image_size", "layout"),
        *("varying_parameters", "parameter_names", "parameter_mappings", "fixed_parameters", "label_encoding"),
        *("train_samples", "num_train_samples", "test_samples", "num_test_samples", "total_samples", "n_samples"),
    }
)


def check_agreement(directory: Path, info: DatasetInfo, data: DataFacts | None = None) -> None:
    """Refuse a dataset whose name, JSON and data contradict each other, with the value that each of the three gives.

    `data` is None where the sample files were not looked at; what any of the three leaves out contradicts nothing.
    """
    hint = parse_name(Path(directory).name)
    facts = data or DataFacts("")
    counts = (facts.train_samples, facts.test_samples)
    data_total = sum(counts) if None not in counts else None
    rows = [(key, getattr(hint, key), getattr(info, key), getattr(facts, key)) for key in ("height", "width", "channels")]
    rows += [
        (VARYING, hint.parameters, len(info.varying), facts.parameters),
        ("number of train samples", None, info.train_samples, facts.train_samples),
        ("number of test samples", None, info.test_samples, facts.test_samples),
        ("number of samples", hint.samples, info.total_samples, data_total),
        ("sample rate in Hz", hint.sample_rate, _number(info.extras.get("sample_rate")), None),
        ("duration in seconds", hint.duration, _number(info.extras.get("duration")), None),
    ]
    for quantity, *values in rows:
        place = facts.places.get(quantity, facts.file)
        if len({value for value in values if value is not None}) > 1:
            name, described, stored = ("nothing" if value is None else value for value in values)
            raise DatasetError(
                f"{directory}: the {quantity} is contradictory: the directory name says {name}, {INFO_FILE} says "
                f"{described}, the data says {stored}" + (f" ({place})" if stored != "nothing" else "")
            )


def _count(document: Mapping, key: str, path: Path, least: int = 0) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DatasetError(f"{path}: {key} is {value!r}; expected a whole number of at least {least}")
    return value


def _object(document: Mapping, key: str, path: Path) -> dict[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, Mapping):
        raise DatasetError(f"{path}: {key} is {value!r}; expected an object")
    return dict(value)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _check_image_size(document: Mapping, expected: tuple[int, int, int], path: Path) -> None:
    """`image_size` may be left out, or say the shape again: "HxWxC", [H, W, C], [C, H, W] or [H, W]. A number says nothing."""
    size = document.get("image_size")
    height, width, channels = expected
    text = f"{height}x{width}x{channels}"
    lists = ([height, width, channels], [channels, height, width], [height, width])
    if isinstance(size, str | list) and size not in (text, *lists):
        raise DatasetError(f"{path}: image_size is {size!r}, but height, width and channels make {text!r}")


def _sample_counts(document: Mapping, path: Path) -> tuple[int | None, int | None, int | None]:
    def either(*keys: str) -> int | None:
        found = {key: count for key in keys if (count := _count(document, key, path)) is not None}
        if len(set(found.values())) > 1:
            raise DatasetError(f"{path}: {found} contradict each other; they mean the same number")
        return next(iter(found.values()), None)

    train, test = either("train_samples", "num_train_samples"), either("test_samples", "num_test_samples")
    total = either("total_samples", "n_samples")
    if None not in (train, test):
        if total not in (None, train + test):
            raise DatasetError(f"{path}: {train} train and {test} test samples make {train + test}, not {total} in total")
        total = train + test
    return train, test, total


def _version(document: Mapping, path: Path) -> str:
    encoding = document.get("label_encoding")
    header = encoding.get("metadata_bytes") if isinstance(encoding, Mapping) else None
    if document.get("version") is None:
        raise DatasetError(f"{path}: version is missing; expected one of {', '.join(HEADER_BYTES)}")
    version = str(document["version"])
    if header is not None and version in HEADER_BYTES and header != HEADER_BYTES[version]:
        raise DatasetError(
            f"{path}: version {version} has records with {HEADER_BYTES[version]} header bytes, but "
            f"label_encoding.metadata_bytes is {header}; one of them is wrong"
        )
    return version


def _labels(document: Mapping, channels: int, path: Path) -> tuple[str, ...]:
    labels = document.get("channel_labels")
    if labels is None:
        return default_labels(channels)
    strings = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not strings or len(labels) != channels or len(set(labels)) != channels:
        raise DatasetError(f"{path}: channel_labels is {labels!r}; expected {channels} different strings")
    return tuple(labels)


def _parameters(document: Mapping, path: Path) -> dict[str, Parameter]:
    names, mappings = document.get("parameter_names"), document.get("parameter_mappings")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise DatasetError(f"{path}: parameter_names is {names!r}; expected a list of different strings")
    if not isinstance(mappings, Mapping):
        raise DatasetError(f"{path}: parameter_mappings is {mappings!r}; expected an object, name → min, max, step")
    if absent := [name for name in names if name not in mappings]:
        raise DatasetError(f"{path}: parameter_mappings has no {', '.join(absent)}; it has {', '.join(mappings)}")
    return {name: Parameter.parse(name, mappings[name], f"{path}: parameter_mappings") for name in names}


def _varying(document: Mapping, parameters: dict[str, Parameter], path: Path) -> tuple[str, ...]:
    """The varying parameters: a list of names, or a count as some writers give it, or left out: all that are named."""
    given = document.get("varying_parameters")
    if isinstance(given, list):
        if not all(isinstance(name, str) for name in given) or len(set(given)) != len(given):
            raise DatasetError(f"{path}: varying_parameters is {given!r}; expected different strings, or their number")
        names = tuple(given)
        if unknown := [name for name in names if name not in parameters]:
            raise DatasetError(f"{path}: varying_parameters names {unknown}; parameter_names has {', '.join(parameters)}")
    else:
        fixed = _object(document, "fixed_parameters", path)
        names = tuple(parameters)
        count = _count(document, "varying_parameters", path)
        if count is not None and count != len(names):
            names = tuple(name for name in names if name not in fixed)
            if count != len(names):
                raise DatasetError(
                    f"{path}: varying_parameters is {count}, but parameter_names without the fixed ones leaves "
                    f"{len(names)}: {', '.join(names)}"
                )
    for name in names:
        if parameters[name].minimum == parameters[name].maximum:
            raise DatasetError(
                f"{path}: {name!r} varies, but its min and max are both {parameters[name].minimum}; "
                "give its range, or name it in fixed_parameters only"
            )
    return names
