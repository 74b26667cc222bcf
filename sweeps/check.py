"""The deep validation of a search space as it comes before a sweep: composing what it can ask for, and reading the data.

It needs torch, which a driver does without: `sweeps.process_server` has it and sends `answer`, which the driver has `checked`.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lhtx.errors import CheckpointError, ConfigError, DatasetError
from sweeps.errors import Problem, ResourceError, SpaceError, SweepError
from sweeps.validated import Validation, validation_of

if TYPE_CHECKING:
    from sweeps.schema import SearchSpace

_ERRORS = {error.__name__: error for error in (CheckpointError, ConfigError, DatasetError, ResourceError, SweepError)}


def check(space: SearchSpace) -> Validation:
    """Make the data if need be, compose what the space can ask for, and read every record: a damaged one is found here, not by
    each trial.

    Raises: as `sweeps.validation.validate`.
    """
    from lhtx.compose import build_datamodule, compose, configure
    from sweeps.validation import validate

    start = time.monotonic()
    validation = validate(space)
    datamodule = build_datamodule(configure(compose(list(space.trial))))
    datamodule.prepare_data()
    datamodule.setup()
    return validation.in_all(time.monotonic() - start)


def answer(space_name: str) -> dict[str, Any]:
    """What `check` says of a space, as a message."""
    from sweeps.space import load_space

    try:
        return {"kind": "checked", "validation": asdict(check(load_space(space_name)))}
    except SpaceError as error:
        return {
            "kind": "checked",
            "problems": [[problem.where, problem.what] for problem in error.problems],
            "text": str(error),
        }
    except tuple(_ERRORS.values()) as error:
        return {"kind": "checked", "error": type(error).__name__, "text": str(error)}
    except Exception:  # noqa: BLE001  no fault of the space: told whole, by the process that was asked for it
        return {"kind": "checked", "traceback": traceback.format_exc()}


def checked(message: dict[str, Any]) -> Validation:
    """What `answer` has said, in another process.

    Raises: what `check` has raised.
    """
    if "validation" in message:
        return validation_of(message["validation"])
    if "problems" in message:
        raise SpaceError([Problem(where, what) for where, what in message["problems"]] or message["text"])
    if "error" in message:
        raise _ERRORS[message["error"]](message["text"])
    raise RuntimeError(f"the search space could not be checked:\n{message['traceback']}")
